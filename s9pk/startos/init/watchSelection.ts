import { stat } from 'node:fs/promises'
import { setModel } from '../actions/setModel'
import { i18n } from '../i18n'
import { sdk } from '../sdk'
import { selected } from '../selection'

/** Milliseconds between two looks. Each is one `stat`. */
const interval = 1000

/**
 * Keeps the task "Set Model" in step with the store: a critical one while nothing is selected, none otherwise.
 *
 * A critical task stops the service, and the store may be written by anybody in any way: an editor empties or removes
 * the file for a moment. So nothing is believed before it was seen twice, and a file that cannot be read changes
 * nothing. Looking is sturdier here than a watcher, which ends at the first content that it cannot read.
 */
export const watchSelection = sdk.setupOnInit(async (effects) => {
  const path = sdk.volumes.main.subpath('store.json')
  let before: string | undefined
  let settled: string | undefined

  const look = async () => {
    const now = await version(path)
    const sure = before === undefined || now === before
    before = now
    if (!sure || now === settled) return
    // An action that was run has removed its task already, unseen from here: the file decides, not what was done last.
    switch (await selected(path)) {
      case true:
        await sdk.action.clearTask(effects, `${sdk.manifest.id}:${setModel.id}`)
        break
      case false:
        await sdk.action.createOwnTask(effects, setModel, 'critical', {
          reason: i18n('Select which AI model vLLM should serve'),
        })
    }
    settled = now
  }

  await look()
  let timer: NodeJS.Timeout | undefined
  let ended = false
  const again = () => {
    if (ended) return
    timer = setTimeout(async () => {
      await look().catch((error) => console.error(String(error)))
      again()
    }, interval)
  }
  effects.onLeaveContext(() => {
    ended = true
    clearTimeout(timer)
  })
  again()
})

/** What changes whenever the file does. */
async function version(path: string): Promise<string> {
  try {
    const { ino, size, mtimeNs } = await stat(path, { bigint: true })
    return `${ino} ${size} ${mtimeNs}`
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error)
  }
}
