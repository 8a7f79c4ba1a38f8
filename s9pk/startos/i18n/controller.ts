/**
 * What the controller says, in the user's language. It names a sentence by an id, which is the key here; `en_US.json`
 * is made from its own list.
 */
import de_DE from './controller/de_DE.json'
import en_US from './controller/en_US.json'
import es_ES from './controller/es_ES.json'
import fr_FR from './controller/fr_FR.json'
import pl_PL from './controller/pl_PL.json'

type Dictionary = Record<string, string>
const dictionaries: Record<string, Dictionary> = {
  en_US,
  es_ES,
  de_DE,
  pl_PL,
  fr_FR,
}

export type Message = {
  id: string
  params: Record<string, string | number>
  message?: string
}

/** One sentence. What the dictionary does not know is told as the controller put it. */
export function tell({ id, params, message }: Message): string {
  const sentence = dictionary()[id]
  if (sentence === undefined) return message ?? id
  return sentence.replace(/\{\{|\}\}|\{(\w+)\}/g, (found, name?: string) =>
    name === undefined ? found[0] : String(params[name] ?? found),
  )
}

/** Sentences in a row; one that is followed by another gets its full stop. */
export function tellAll(messages: Message[]): string {
  return messages.map(tell).reduce((row, next) => {
    if (row === '') return next
    return /[.:]$/.test(row) ? `${row} ${next}` : `${row}. ${next}`
  }, '')
}

/** As the SDK chooses among the dictionaries of the package. */
function dictionary(): Dictionary {
  const wanted = (process.env.LANG ?? '').split('.')[0]
  const close = Object.keys(dictionaries).find((name) =>
    name.startsWith(`${wanted.split('_')[0]}_`),
  )
  return (
    dictionaries[wanted] ?? (close === undefined ? en_US : dictionaries[close])
  )
}
