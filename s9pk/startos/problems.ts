import { i18n } from './i18n'
import { tell } from './i18n/controller'

/** One thing that is wrong with what was entered, as the controller says it. */
export type Problem = {
  field: string | null
  code: string
  message: string
  params: Record<string, string | number>
  position: number | null
}

/** The names that the fields have in the forms. */
const names: Record<string, () => string> = {
  selection: () => i18n('Model'),
  customArgs: () => i18n('Arguments'),
  customEnv: () => i18n('Environment Variables'),
  hfToken: () => i18n('HuggingFace Token'),
  model: () => i18n('Cached Model'),
}

/** Its sentence. */
export function said({ code, params, message }: Problem): string {
  return tell({ id: code, params, message })
}

/** The sentences of `found`, one a line, each behind the name of its field. */
export function problems(found: Problem[]): string {
  return found.map(line).join('\n')
}

function line(problem: Problem): string {
  const { field, params, position } = problem
  const sentence = said(problem)
  const [, name, place] = /^(\w+)(?:\[(\d+)\])?/.exec(field ?? '') ?? []
  const known = name === undefined ? undefined : names[name]
  if (known === undefined) return sentence
  const label =
    place === undefined ? known() : `${known()} ${Number(place) + 1}`
  if (position === null || 'character' in params) return `${label}: ${sentence}`
  return `${label}, ${i18n('character ${number}', { number: String(position + 1) })}: ${sentence}`
}
