import { act, Choice, form } from '../controller'
import { i18n } from '../i18n'
import { tell } from '../i18n/controller'
import { Problem, said } from '../problems'
import { sdk } from '../sdk'

const { InputSpec, Value } = sdk

/** Stands where there is nothing to choose. */
const none = ''

export const deleteModelCache = sdk.Action.withInput(
  'delete-model-cache',
  {
    name: i18n('Delete Model Cache'),
    description: i18n('Delete a downloaded model, to free its space'),
    warning: i18n(
      'The files of the model are deleted for good. The selection stays as it is.',
    ),
    allowedStatuses: 'any',
    group: null,
    visibility: 'enabled',
  },
  async ({ effects }) => {
    const asked = await form(effects, 'delete-model-cache')
    const choices = asked.fields.find(({ id }) => id === 'model')?.choices ?? []
    const nothing = choices.length === 0
    return InputSpec.of({
      model: Value.dynamicSelect(async () => ({
        name: i18n('Cached Model'),
        warning:
          asked.notes.length === 0 ? null : asked.notes.map(said).join(' '),
        default:
          choices.find(
            ({ disabledReason, state }) =>
              disabledReason === null && state === null,
          )?.id ?? none,
        values: nothing
          ? { [none]: i18n('No model is cached.') }
          : Object.fromEntries(
              choices.map((choice) => [choice.id, named(choice)]),
            ),
        disabled: nothing
          ? [none]
          : choices
              .filter(({ disabledReason }) => disabledReason !== null)
              .map(({ id }) => id),
      })),
      force: Value.toggle({
        name: i18n('Even if it is in use'),
        description: i18n(
          'Also delete a model that is selected, served or being downloaded',
        ),
        default: false,
      }),
    })
  },
  async () => null,
  async ({ effects, input }) => {
    if (input.model === none) throw new Error(i18n('No model is cached.'))
    const done = await act(effects, 'delete-model-cache', {
      model: input.model,
      force: input.force,
    })
    const deleted = i18n('${model} was deleted: ${size} are free again.', {
      model: input.model,
      size: gb(Number(done.freed)),
    })
    return {
      version: '1',
      title: i18n('Delete Model Cache'),
      message: [deleted, ...(done.notes as Problem[]).map(said)].join(' '),
      result: null,
    }
  },
)

function named({
  id,
  size,
  state,
  disabledReason,
  disabledCode,
  disabledParams,
}: Choice): string {
  const states: Record<string, string> = {
    served: i18n('is served'),
    selected: i18n('is selected'),
  }
  const words = [id, gb(size ?? 0)]
  if (state) words.push(states[state] ?? state)
  const row = words.join(', ')
  if (disabledReason === null) return row
  return `${row}: ${tell({ id: disabledCode ?? '', params: disabledParams ?? {}, message: disabledReason })}`
}

/** Bytes as GB of 10⁹. */
function gb(bytes: number): string {
  return `${(bytes / 1e9).toFixed(bytes >= 1e9 ? 1 : 3)} GB`
}
