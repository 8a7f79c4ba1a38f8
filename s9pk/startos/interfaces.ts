import { i18n } from './i18n'
import { sdk } from './sdk'

export const port = 8000
export const host = 'api-multi'
export const apiInterface = 'api'

export const setInterfaces = sdk.setupInterfaces(async ({ effects }) => {
  const origin = await sdk.MultiHost.of(effects, host).bindPort(port, {
    protocol: 'http',
  })
  const api = sdk.createInterface(effects, {
    id: apiInterface,
    name: i18n('API'),
    description: i18n('The OpenAI-compatible API'),
    type: 'api',
    masked: false,
    schemeOverride: null,
    username: null,
    path: '',
    query: {},
  })
  return [await origin.export([api])]
})
