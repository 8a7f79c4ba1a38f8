import { readSmall } from './smallFile'

/**
 * Whether something is selected; null when that cannot be known.
 *
 * `serveArgs` absent, null or empty is nothing, as is a missing file. What else is wrong with a file is the
 * controller's to say: the last good content stays in force, so that the task stays as it is.
 */
export async function selected(path: string): Promise<boolean | null> {
  try {
    const text = await readSmall(path)
    if (text === null) return false
    const store: unknown = JSON.parse(text)
    if (typeof store !== 'object' || store === null || Array.isArray(store))
      return null
    const args = (store as { serveArgs?: unknown }).serveArgs ?? []
    return Array.isArray(args) ? args.length > 0 : null
  } catch {
    return null
  }
}
