import { sdk } from '../sdk'
import { deleteModelCache } from './deleteModelCache'
import { getApiCredentials } from './getApiCredentials'
import { rotateApiKey } from './rotateApiKey'
import { setModel } from './setModel'

export const actions = sdk.Actions.of()
  .addAction(setModel)
  .addAction(getApiCredentials)
  .addAction(rotateApiKey)
  .addAction(deleteModelCache)
