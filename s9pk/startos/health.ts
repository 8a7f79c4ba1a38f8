import { readFile, stat } from 'node:fs/promises'
import { ownPath } from './controller'
import { i18n } from './i18n'
import { Message, tell, tellAll } from './i18n/controller'
import { readSmall } from './smallFile'

/** What the dashboard is told. */
export type Shown =
  | { result: 'success' | 'starting'; message: string | null }
  | { result: 'loading' | 'failure' | 'disabled'; message: string }

/** What is used of `health.json`; `docs/health.md` of the controller describes it. */
type Report = {
  state: string
  result: string
  parts: Message[]
  message: string
  download: object | null
  bootId: string
}

/** Milliseconds without a heartbeat, after which the controller is stuck. It beats every 5 s. */
const stale = 15_000
/** Milliseconds after which at least one heartbeat was due. */
const due = 6000
/** Milliseconds that one look may take: a volume that hangs must not hang a stop of the service. */
const patience = 2000

/**
 * Reads what the controller says, from the volume, without starting a process.
 *
 * One of these lives as long as the service runs. Nothing is a success unless a controller that is alive says so: the
 * file must be newer than this run, of this boot, with a heartbeat, and somebody must hold the controller's lock.
 */
export class Health {
  private readonly started = Date.now()
  /** Whether the kernel's list has shown the lock: only then does its absence mean anything. */
  private seen = false
  /** The last line on standard error, and when it came. */
  private said: { line: string; at: number } | null = null

  /** Takes what comes from there: what keeps a controller from running has no other way to be told. */
  heard = (chunk: Buffer) => {
    process.stderr.write(chunk)
    const lines = chunk.toString().split('\n')
    const last = lines
      .map((line) => line.trim())
      .filter(Boolean)
      .pop()
    if (last !== undefined)
      this.said = { line: last.slice(0, 300), at: Date.now() }
  }

  /** What vLLM does. */
  primary = () =>
    bounded(async (): Promise<Shown> => {
      const report = await this.report()
      if ('result' in report && !('state' in report)) return report
      const message = tellAll(report.parts)
      switch (report.result) {
        case 'success':
          return { result: 'success', message }
        case 'loading':
          return { result: 'loading', message }
        default:
          return { result: 'failure', message }
      }
    })

  /** The download of the next model, while the present one serves. */
  next = () =>
    bounded(async (): Promise<Shown> => {
      const report = await this.report()
      const coming =
        'state' in report &&
        report.state === 'Ready' &&
        report.download !== null
          ? report.parts.find(({ id }) => id.startsWith('ReadyNext'))
          : undefined
      return coming === undefined
        ? {
            result: 'disabled',
            message: i18n('No other model is being downloaded.'),
          }
        : { result: 'loading', message: tell(coming) }
    })

  private async report(): Promise<Report | Shown> {
    const alive = await this.locked()
    const path = ownPath('health.json')
    const age = await stat(path).then(
      ({ mtimeMs }) => ({
        beat: mtimeMs,
        quiet: Date.now() - mtimeMs,
      }),
      (error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT' || this.said) return null
        throw error
      },
    )
    // A controller that runs means it otherwise: what it says stands in its file.
    if (alive || (age !== null && this.said && age.beat > this.said.at))
      this.said = null
    // A controller that lives may print as well: where the lock tells nothing, its heartbeat does.
    const beats =
      alive === null &&
      age !== null &&
      age.beat >= this.started &&
      Math.abs(age.quiet) <= due
    if (this.said !== null && !beats) return ended(this.said.line)
    if (alive === false && this.seen) {
      return {
        result: 'failure',
        message: i18n('The controller has ended. It is being started again.'),
      }
    }
    if (age === null || age.beat < this.started || alive === false)
      return starting(this.started)
    if (age.quiet < -stale) {
      return {
        result: 'failure',
        message: i18n(
          'The controller has not been heard of since the clock was set back. Restart the service.',
        ),
      }
    }
    if (age.quiet > stale) {
      const seconds = String(Math.round(age.quiet / 1000))
      return {
        result: 'failure',
        message: i18n(
          'The controller has not been heard of for ${seconds} s. Restart the service.',
          { seconds },
        ),
      }
    }
    const report = JSON.parse(
      (await readSmall(path)) ?? 'null',
    ) as Report | null
    if (report === null || report.bootId !== (await bootId()))
      return starting(this.started)
    return report
  }

  /** Whether somebody holds the controller's lock; null when the kernel's list cannot tell. */
  private async locked(): Promise<boolean | null> {
    const [lock, list] = await Promise.all([
      stat(ownPath('lock')).catch(() => null),
      readFile('/proc/locks', 'utf8').catch(() => null),
    ])
    if (list === null) return null
    const held =
      lock !== null &&
      list
        .split('\n')
        .some((row) => row.includes('OFDLCK') && row.includes(`:${lock.ino} `))
    this.seen ||= held
    return held || this.seen ? held : null
  }
}

function ended(said: string): Shown {
  return {
    result: 'failure',
    message: i18n(
      'The controller has ended (${said}). It is being started again.',
      { said },
    ),
  }
}

/** A controller begins to write within a second, on a slow disk within some. */
function starting(since: number): Shown {
  return Date.now() - since < 30_000
    ? { result: 'starting', message: i18n('The controller is starting.') }
    : {
        result: 'failure',
        message: i18n(
          'The controller does not start. Check the service logs for errors.',
        ),
      }
}

async function bounded(look: () => Promise<Shown>): Promise<Shown> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<Shown>((done) => {
    timer = setTimeout(() => {
      done({
        result: 'failure',
        message: i18n('The volume of the service does not answer.'),
      })
    }, patience)
  })
  const seen = look().catch((error): Shown => ({
    result: 'failure',
    message: i18n('The state of the service cannot be read (${error}).', {
      error: error instanceof Error ? error.message : String(error),
    }),
  }))
  try {
    return await Promise.race([seen, late])
  } finally {
    clearTimeout(timer)
  }
}

/** The kernel's: a file that an earlier boot left says nothing. */
async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'ascii')).trim()
}
