import { act } from '../controller'
import { i18n } from '../i18n'
import { sdk } from '../sdk'
import { access } from './access'

export const getApiCredentials = sdk.Action.withoutInput(
  'get-api-credentials',
  {
    name: i18n('Get API Key'),
    description: i18n(
      'The key that clients need, and the address that it is used with',
    ),
    warning: null,
    allowedStatuses: 'any',
    group: null,
    visibility: 'enabled',
  },
  async ({ effects }) =>
    access(effects, await act(effects, 'get-api-credentials')),
)
