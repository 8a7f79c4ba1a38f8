import { sdk } from './sdk'

/**
 * Both volumes, the models included: a restore needs no download. Left out are what vLLM compiles anew, and what the
 * controller keeps of a run: a lock and a health of another life would say nothing.
 */
export const { createBackup, restoreInit } = sdk.setupBackups(async () =>
  sdk.Backups.ofVolumes('main', 'public').setOptions({
    exclude: ['/cache', '/.vllm-fsm'],
  }),
)
