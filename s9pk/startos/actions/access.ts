import { T } from '@start9labs/start-sdk'
import { i18n } from '../i18n'
import { apiInterface, host, port } from '../interfaces'
import { sdk } from '../sdk'

/** What a client needs, as the result of one of the two actions that give it; `first` are sentences before it. */
export async function access(
  effects: T.Effects,
  done: Record<string, unknown>,
  first: string[] = [],
): Promise<T.ActionResult & { version: '1' }> {
  const key = (done.values as { id: string; value: string }[]).find(
    ({ id }) => id === 'apiKey',
  )
  if (key === undefined) throw new Error('The controller gave no key')
  const single = (
    name: string,
    description: string | null,
    value: string,
    masked: boolean,
  ) => ({
    type: 'single' as const,
    name,
    description,
    value,
    copyable: true,
    qr: false,
    masked,
  })
  const urls = await addresses(effects)
  const where = i18n(
    'The base URL is an address of the API interface with /v1 behind it.',
  )
  return {
    version: '1',
    title: i18n('API Key'),
    message: [...first, where].join(' '),
    result: {
      type: 'group',
      value: [
        single(
          i18n('API Key'),
          i18n('Sent by clients as a bearer token'),
          key.value,
          true,
        ),
        ...urls.map((url) =>
          single(
            i18n('Base URL'),
            null,
            `${url.replace(/\/+$/, '')}/v1`,
            false,
          ),
        ),
      ],
    },
  }
}

/** How clients reach the service. None is no reason to withhold the key. */
async function addresses(effects: T.Effects): Promise<string[]> {
  try {
    const own = await sdk.host.getOwn(effects, host).once()
    return (
      own?.bindings[port]?.interfaces[
        apiInterface
      ]?.addressInfo.nonLocal.format() ?? []
    )
  } catch (error) {
    console.error(String(error))
    return []
  }
}
