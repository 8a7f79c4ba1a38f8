/**
 * The loop by which the original package keeps its server: the store is read with `.const()`, so that a change of it
 * restarts the service, and an open port counts as ready. Nothing else of it is here.
 */
import {
  buildManifest,
  FileHelper,
  setupManifest,
  StartSdk,
  VersionGraph,
  VersionInfo,
  z,
} from '@start9labs/start-sdk'

const text = { en_US: 'Comparison' }
const current = VersionInfo.of({
  version: '1.0.0:0',
  releaseNotes: text,
  migrations: {},
})
const versionGraph = VersionGraph.of({ current, other: [] })
const description = setupManifest({
  id: 'comparison',
  title: 'Comparison',
  license: 'Apache-2.0',
  packageRepo: '',
  upstreamRepo: '',
  marketingUrl: '',
  donationUrl: null,
  description: { short: text, long: text },
  volumes: ['main'],
  images: { server: { source: { dockerTag: 'none:1' }, arch: ['x86_64'] } },
  dependencies: {},
})
const sdk = StartSdk.of().withManifest(description).build(true)
const store = FileHelper.json(
  { base: sdk.volumes.main, subpath: './store.json' },
  z.object({ serveArgs: z.array(z.string()).optional().catch(undefined) }),
)

const given = (name: string) => process.env[name] ?? ''
const port = Number(given('COMPARE_PORT'))
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) =>
    /^(COMPARE|RUDE)_/.test(name),
  ),
) as Record<string, string>

export const main = sdk.setupMain(async ({ effects }) => {
  const wanted = await store.read((content) => content.serveArgs).const(effects)
  const container = sdk.SubContainer.of(
    effects,
    { imageId: 'server' },
    sdk.Mounts.of(),
    'server',
  )
  const words = ['serve', ...(wanted ?? []), '--host', '127.0.0.1']
  return sdk.Daemons.of(effects)
    .addOneshot('ldconfig', {
      subcontainer: container,
      exec: { command: ['ldconfig'] },
      requires: [],
    })
    .addDaemon('primary', {
      subcontainer: container,
      exec: {
        command: ['sh', given('COMPARE_SERVER'), ...words, '--port', `${port}`],
        env,
        sigtermTimeout: 5000,
      },
      ready: {
        display: 'API',
        fn: async () => {
          const seen = await sdk.healthCheck.checkPortListening(effects, port, {
            successMessage: 'ready',
            errorMessage: 'starting',
          })
          return seen.result === 'success'
            ? seen
            : { result: 'loading', message: 'starting' }
        },
      },
      requires: ['ldconfig'],
    })
})

export const init = sdk.setupInit(versionGraph)
export const uninit = sdk.setupUninit(versionGraph)
export const actions = sdk.Actions.of()
export const { createBackup } = sdk.setupBackups(async () =>
  sdk.Backups.ofVolumes('main'),
)
export const manifest = buildManifest(versionGraph, description)
