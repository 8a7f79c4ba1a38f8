import { T } from '@start9labs/start-sdk'
import { Message } from './i18n/controller'
import { Problem, problems } from './problems'
import { sdk } from './sdk'

/** Where the controller finds everything in its container, and what runs it there. */
const assets = '/opt/vllm-fsm'
const own = '/data/.vllm-fsm'
const program = ['sh', `${assets}/vllm-fsm`]
const directories = ['--data', '/data', '--public', '/public', '--run-dir', own]

/** Both of its directories lie on the volume, where the health check reads them without starting a process. */
export const runCommand: [string, ...string[]] = [
  'sh',
  `${assets}/vllm-fsm`,
  'run',
  ...directories,
  '--state-dir',
  own,
  '--log-format',
  'json',
]

/** Of that directory, on the volume `main`. */
export const ownPath = (name: string) =>
  sdk.volumes.main.subpath(`.vllm-fsm/${name}`)

export const mounts = () =>
  sdk.Mounts.of()
    .mountAssets({ subpath: null, mountpoint: assets })
    .mountVolume({
      volumeId: 'main',
      subpath: null,
      mountpoint: '/data',
      readonly: false,
    })
    .mountVolume({
      volumeId: 'public',
      subpath: null,
      mountpoint: '/public',
      readonly: false,
    })

/** What an action asks for: `docs/actions.md` of the controller describes it. */
export type Choice = {
  id: string
  label: string
  disabledReason: string | null
  disabledCode: string | null
  disabledParams: Params | null
  /** What should be known before it is chosen. */
  note?: Problem | null
  /** The label in other languages. */
  title?: Message
  size?: number
  state?: string | null
}
export type Params = Record<string, string | number>
export type Field = {
  id: string
  default: unknown
  value: unknown
  choices: Choice[] | null
}
export type Form = { fields: Field[]; notes: Problem[] }

/** Milliseconds. StartOS gives a form 30 s and an action 120 s; a driver that hangs takes some of that. */
const formLimit = 25_000
const actionLimit = 100_000

/** Asks the controller for the form of an action. Throws an Error with a sentence for the user. */
export async function form(effects: T.Effects, id: string): Promise<Form> {
  return (await ask(effects, ['form', id], undefined, formLimit)) as Form
}

/** Has the controller do an action, and gives its result. Throws an Error with sentences for the user. */
export async function act(
  effects: T.Effects,
  id: string,
  input: object = {},
): Promise<Record<string, unknown>> {
  const answer = (await ask(
    effects,
    ['run', id, '--input', '-'],
    JSON.stringify(input),
    actionLimit,
  )) as {
    result: Record<string, unknown>
  }
  return answer.result
}

async function ask(
  effects: T.Effects,
  words: string[],
  input: string | undefined,
  limit: number,
): Promise<unknown> {
  const done = await sdk.SubContainer.withTemp(
    effects,
    { imageId: 'vllm' },
    mounts(),
    words.slice(0, 2).join('-'),
    (sub) =>
      sub.exec(
        [...program, 'action', ...words, ...directories],
        { input },
        limit,
      ),
  )
  const text = String(done.stdout)
  let answer: { ok?: boolean; errors?: Problem[] }
  try {
    answer = JSON.parse(text)
  } catch {
    const said =
      String(done.stderr).trim().split('\n').pop() ||
      `exit code ${done.exitCode ?? done.exitSignal}`
    throw new Error(`The controller gave no answer: ${said}`)
  }
  if (answer.ok === false) throw new Error(problems(answer.errors ?? []))
  return answer
}
