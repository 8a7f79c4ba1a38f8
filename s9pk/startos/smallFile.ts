import { constants } from 'node:fs'
import { open } from 'node:fs/promises'

const limit = 1 << 20

/**
 * The text of a small file, null where there is none.
 *
 * Never waits: what stands in the file's place may be a pipe, and whoever hangs here hangs a stop of the service.
 */
export async function readSmall(path: string): Promise<string | null> {
  const file = await open(
    path,
    constants.O_RDONLY | constants.O_NONBLOCK,
  ).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (file === null) return null
  try {
    const found = await file.stat()
    if (!found.isFile()) throw new Error(`${path} is no file`)
    if (found.size > limit)
      throw new Error(`${path} is larger than ${limit} bytes`)
    return await file.readFile('utf8')
  } finally {
    await file.close()
  }
}
