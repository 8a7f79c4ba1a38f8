import { mounts, runCommand } from './controller'
import { Health } from './health'
import { i18n } from './i18n'
import { sdk } from './sdk'

/** Milliseconds; the controller gives vLLM 60 s to end, and then needs some for what is left of it. */
const sigtermTimeout = 90_000

/**
 * One daemon, which follows the files by itself: nothing here depends on their content, so nothing here can fail for
 * it, and no change of them restarts anything.
 */
export const main = sdk.setupMain(async ({ effects }) => {
  const health = new Health()
  const often = sdk.trigger.cooldownTrigger(1000)

  return sdk.Daemons.of(effects)
    .addDaemon('primary', {
      subcontainer: sdk.SubContainer.of(
        effects,
        { imageId: 'vllm' },
        mounts(),
        'vllm',
      ),
      exec: {
        command: runCommand,
        sigtermTimeout,
        onStdout: (chunk: Buffer) => process.stdout.write(chunk),
        onStderr: health.heard,
      },
      ready: {
        display: i18n('vLLM API'),
        fn: health.primary,
        trigger: often,
        gracePeriod: 0,
      },
      requires: [],
    })
    .addHealthCheck('download', {
      ready: {
        display: i18n('Next model'),
        fn: health.next,
        trigger: often,
        gracePeriod: 0,
      },
      requires: [],
    })
})
