/** The settings a command line asks for: its files, or the packaged ones, with its `--set` over them. */
import { fileURLToPath } from 'node:url'
import { resolve } from 'node:path'
import { known } from '../compose.ts'
import { loadConfig, type Loaded, type Source } from '../config/load.ts'
import { reason } from '../config/reference.ts'
import { ConfigError } from '../errors.ts'
import type { Io } from './io.ts'

/** What `npm start` uses, wherever it is started from. */
export const defaultFile = fileURLToPath(new URL('../../config/default.yaml', import.meta.url))

export interface Wanted {
  readonly configs: readonly string[]
  readonly sets: readonly string[]
}

type Surroundings = Pick<Io, 'cwd' | 'environment' | 'readFile'>

/** Throws a ConfigError with every mistake, a file that is not there among them. */
export function readSettings({ configs, sets }: Wanted, io: Surroundings): Loaded {
  const files =
    configs.length > 0
      ? configs.map((name) => ({ name, path: resolve(io.cwd, name) }))
      : [{ name: 'config/default.yaml', path: defaultFile }]
  const missing: string[] = []
  const sources = files.flatMap(({ name, path }): Source[] => {
    try {
      return [{ name, text: io.readFile(path) }]
    } catch (error) {
      missing.push(`${name}: cannot be read (${reason(error)})`)
      return []
    }
  })
  if (missing.length > 0) throw new ConfigError(missing)
  return loadConfig(sources, sets, io.environment, (path) => io.readFile(resolve(io.cwd, path)), known)
}
