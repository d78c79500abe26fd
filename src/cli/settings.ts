/** The settings a command line asks for: its files, or the packaged ones, with its `--set` over them. */
import { fileURLToPath } from 'node:url'
import { resolve } from 'node:path'
import { known } from '../compose.ts'
import { certificateWarnings } from '../config/certificate.ts'
import { loadConfig, type Loaded, type Source } from '../config/load.ts'
import { reason } from '../config/reference.ts'
import type { SettingsSource } from '../config/reload.ts'
import { ConfigError } from '../errors.ts'
import type { Io } from './io.ts'

/** What `npm start` uses, wherever it is started from. */
export const defaultFile = fileURLToPath(new URL('../../config/default.yaml', import.meta.url))

export interface Wanted {
  readonly configs: readonly string[]
  readonly sets: readonly string[]
}

type SettingsIo = Pick<Io, 'cwd' | 'environment' | 'readFile'>

/** To be read at start and again with each reload. */
export function settingsSource(wanted: Wanted, io: SettingsIo): SettingsSource {
  return { read: () => readSettings(wanted, io), files: filesOf(wanted, io).map(({ path }) => path) }
}

/** For commands that make no paid call: they need no key, and an empty one is none. */
export function withoutKey<Ports extends Pick<Io, 'environment'>>(io: Ports, standIn = 'not-needed'): Ports {
  const { SCRAPELLM_API_KEY: key } = io.environment
  return { ...io, environment: { ...io.environment, SCRAPELLM_API_KEY: key || standIn } }
}

/** Throws a ConfigError with every mistake, a file that is not there among them. */
export function readSettings(wanted: Wanted, io: SettingsIo): Loaded {
  const files = filesOf(wanted, io)
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
  const readFile = (path: string): string => io.readFile(resolve(io.cwd, path))
  const loaded = loadConfig(sources, wanted.sets, io.environment, readFile, known)
  return { ...loaded, warnings: [...loaded.warnings, ...certificateWarnings(loaded.config, readFile, Date.now())] }
}

function filesOf({ configs }: Wanted, { cwd }: SettingsIo): { readonly name: string; readonly path: string }[] {
  if (configs.length === 0) return [{ name: 'config/default.yaml', path: defaultFile }]
  return configs.map((name) => ({ name, path: resolve(cwd, name) }))
}
