import { T } from '@start9labs/start-sdk'
import { act, Choice, form, Form } from '../controller'
import { i18n } from '../i18n'
import { tell } from '../i18n/controller'
import { Problem, said } from '../problems'
import { sdk } from '../sdk'

const { InputSpec, Value, Variants, List } = sdk

/** The choice that takes arguments of one's own. */
const custom = 'custom'

type Variable = { name: string; value: string }
type Chosen = {
  selection: string
  value: { customArgs?: string; customEnv?: Variable[] }
}

/** The form that was asked for a moment ago: what it looks like and what it holds are of one piece. */
const opened = new WeakMap<T.Effects, Form>()

const variable = InputSpec.of({
  name: Value.text({
    name: i18n('Name'),
    required: true,
    default: null,
    placeholder: 'VLLM_LOGGING_LEVEL',
  }),
  value: Value.text({ name: i18n('Value'), required: true, default: null }),
})

const ownArguments = InputSpec.of({
  customArgs: Value.textarea({
    name: i18n('Arguments'),
    description: i18n(
      'What follows "vllm serve": the name of a model on HuggingFace, then what vLLM is told. Quotes and backslashes count as in a shell.',
    ),
    required: true,
    default: null,
    minRows: 3,
    placeholder: 'Qwen/Qwen3-0.6B --max-model-len 8192',
  }),
  customEnv: Value.list(
    List.obj(
      {
        name: i18n('Environment Variables'),
        description: i18n(
          'For vLLM. *** stands for a value that is stored and not shown.',
        ),
        default: [],
      },
      { spec: variable, displayAs: '{{name}}', uniqueBy: 'name' },
    ),
  ),
})

export const setModel = sdk.Action.withInput(
  'set-model',
  {
    name: i18n('Set Model'),
    description: i18n('Choose the model that vLLM serves'),
    warning: null,
    allowedStatuses: 'any',
    group: null,
    visibility: 'enabled',
  },
  async ({ effects }) => {
    const asked = await form(effects, 'set-model')
    opened.set(effects, asked)
    const { choices, fallback } = offered(asked)
    return InputSpec.of({
      model: Value.dynamicUnion(async () => ({
        name: i18n('Model'),
        description: i18n(
          'What does not fit this machine is shown with the reason.',
        ),
        warning:
          asked.notes.length === 0 ? null : asked.notes.map(said).join(' '),
        default: fallback,
        disabled: choices.filter(refused).map(({ id }) => id),
        variants: Variants.of(
          Object.fromEntries(
            choices.map((choice) => [
              choice.id,
              {
                name: named(choice),
                spec: choice.id === custom ? ownArguments : InputSpec.of({}),
              },
            ]),
          ),
        ),
      })),
      hfToken: Value.text({
        name: i18n('HuggingFace Token'),
        description: i18n(
          'For models that ask for one. *** stands for the stored one; empty it to remove it.',
        ),
        required: false,
        default: null,
        masked: true,
      }),
    })
  },
  async ({ effects }) => {
    const asked = opened.get(effects) ?? (await form(effects, 'set-model'))
    opened.delete(effects)
    const { fallback } = offered(asked)
    const known = value(asked, 'selection') as string | null
    const selection = known ?? fallback
    return {
      model: {
        selection,
        value:
          selection === custom
            ? {
                customArgs: value(asked, 'customArgs') as string,
                customEnv: value(asked, 'customEnv') as Variable[],
              }
            : {},
      },
      hfToken: value(asked, 'hfToken') as string | null,
    }
  },
  async ({ effects, input }): Promise<T.ActionResult & { version: '1' }> => {
    const { selection, value: own } = input.model as Chosen
    const done = await act(effects, 'set-model', {
      selection,
      ...own,
      hfToken: input.hfToken,
    })
    const notes = (done.notes as Problem[]).map(said)
    if (typeof done.aside === 'string') {
      notes.unshift(
        i18n(
          'The selection could not be read and was begun anew; the old file is kept as ${file}.',
          { file: done.aside },
        ),
      )
    }
    const first = done.retried
      ? i18n('The choice is the same as before. The service tries again.')
      : done.changed
        ? i18n(
            'The choice is stored. A running service takes over by itself; its health says how far it is.',
          )
        : i18n('The choice is the same as before. Nothing was changed.')
    return {
      version: '1',
      title: i18n('Set Model'),
      message: [first, ...notes].join(' '),
      result: null,
    }
  },
)

function offered(asked: Form): { choices: Choice[]; fallback: string } {
  const { choices, default: fallback } = field(asked, 'selection')
  return { choices: choices ?? [], fallback: String(fallback) }
}

function field(asked: Form, id: string) {
  const found = asked.fields.find((one) => one.id === id)
  if (found === undefined)
    throw new Error(`The controller's form has no field ${id}`)
  return found
}

function value(asked: Form, id: string): unknown {
  return field(asked, id).value
}

function refused({ disabledReason }: Choice): boolean {
  return disabledReason !== null
}

function named({
  id,
  label,
  disabledReason,
  disabledCode,
  disabledParams,
  note,
  title,
}: Choice): string {
  const name =
    id === custom ? i18n('Custom arguments') : title ? tell(title) : label
  if (disabledReason === null) return note ? `${name}: ${said(note)}` : name
  return `${name}: ${tell({ id: disabledCode ?? '', params: disabledParams ?? {}, message: disabledReason })}`
}
