/** `check`: every mistake in the settings, or "ok" and the settings in effect, with secrets masked. */
import { effective } from '../config/describe.ts'
import { toYaml } from '../config/yaml.ts'
import { ConfigError } from '../errors.ts'
import type { Io } from './io.ts'
import { readSettings, type Wanted } from './settings.ts'

/** Resolves to the exit code. */
export async function runCheck(wanted: Wanted, io: Io): Promise<number> {
  try {
    const { config, warnings } = readSettings(wanted, io)
    for (const warning of warnings) io.stderr(`warning: ${warning}\n`)
    io.stdout(`ok\n${toYaml(effective(config))}`)
    return 0
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    for (const mistake of error.mistakes) io.stderr(`${mistake}\n`)
    return 78
  }
}
