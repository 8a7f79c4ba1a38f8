import { act } from '../controller'
import { i18n } from '../i18n'
import { sdk } from '../sdk'
import { access } from './access'

/** For a key that somebody has who should not, and for a file of it that is broken: nothing else repairs that here. */
export const rotateApiKey = sdk.Action.withoutInput(
  'rotate-api-key',
  {
    name: i18n('Rotate API Key'),
    description: i18n('Replace the key by a new one'),
    warning: i18n(
      'Every client and every service that uses the API needs the new key. A running model is started anew with it.',
    ),
    allowedStatuses: 'any',
    group: null,
    visibility: 'enabled',
  },
  async ({ effects }) => {
    const done = await act(effects, 'rotate-api-key')
    const aside =
      typeof done.aside === 'string'
        ? [
            i18n(
              'The key could not be read; the old file is kept as ${file}.',
              { file: done.aside },
            ),
          ]
        : []
    return access(effects, done, aside)
  },
)
