import { VersionInfo } from '@start9labs/start-sdk'
import { releaseNotes } from './releaseNotes'

/** vLLM's release, and the number of this package of it. `vllm/version.toml` names the same one. */
export const current = VersionInfo.of({
  version: '0.32.0:0',
  releaseNotes,
  migrations: {},
})
