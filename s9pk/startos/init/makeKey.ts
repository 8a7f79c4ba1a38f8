import { access } from 'node:fs/promises'
import { act } from '../controller'
import { sdk } from '../sdk'

/** Sees that there is a key from the beginning, so that it can be copied before the first start. */
export const makeKey = sdk.setupOnInit(async (effects) => {
  try {
    await access(sdk.volumes.public.subpath('credentials.json'))
  } catch {
    // Without it now, the controller makes one at its start: no reason for an installation to fail.
    await act(effects, 'get-api-credentials').catch((error) =>
      console.error(String(error)),
    )
  }
})
