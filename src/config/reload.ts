/**
 * Puts changed settings in force while the proxy runs: on request, and when a file they come from changes. They are read,
 * checked and built aside, and swapped whole; any mistake, and any change that needs a restart, leaves everything as it was.
 * Without a pause from reading to swapping, so that two reloads never meet. Knows nothing of what is built.
 *
 * A changed file is read a moment later, when whoever writes it has probably finished; what is still half written then is a
 * mistake, and read again with its next change. Of what was told already nothing is told again.
 */
import { ConfigError } from '../errors.ts'
import type { Clock, Timer, World } from '../ports.ts'
import { needsRestart } from './describe.ts'
import { differences } from './difference.ts'
import type { Loaded } from './load.ts'
import type { Config } from './schema.ts'

/** Where settings come from. */
export interface SettingsSource {
  /** Throws a ConfigError with every mistake. */
  read(): Loaded
  /** Those that hold settings. */
  readonly files: readonly string[]
}

export type Reloaded =
  | {
      readonly result: 'applied'
      readonly generation: number
      /** Names of settings; the values are nobody's business. */
      readonly changed: readonly string[]
      readonly warnings: readonly string[]
    }
  /** Nothing has changed. */
  | { readonly result: 'invalid' | 'restart'; readonly generation: number; readonly mistakes: readonly string[] }

export interface ReloadPorts {
  readonly source: SettingsSource
  readonly clock: Clock
  readonly watchFile: World['watchFile']
  readonly inForce: () => { readonly config: Config; readonly generation: number }
  /** Builds and swaps; what it throws has changed nothing. Returns the new generation. */
  readonly swap: (loaded: Loaded) => number
  readonly tell: (reloaded: Reloaded, because: string) => void
  /** A bug, not a mistake in the settings. */
  readonly broke: (error: unknown) => void
}

export interface Reloader {
  /** Never throws. `because`: who wanted it. */
  reload(because: string): Reloaded
  /** Watches the files from now on; `secretFiles` are those of the settings in force. */
  watch(secretFiles: readonly string[]): void
  close(): void
}

const quietMs = 1_000

export function createReloader({ source, clock, watchFile, inForce, swap, tell, broke }: ReloadPorts): Reloader {
  const watches = new Map<string, { close(): void }>()
  let waiting: Timer | null = null
  /** The mistakes told last; null = none since the last success. */
  let told: string | null = null

  return {
    reload(because) {
      const reloaded = attempt(true)
      note(reloaded, because)
      return reloaded
    },
    watch,
    close() {
      waiting?.cancel()
      for (const one of watches.values()) one.close()
      watches.clear()
    },
  }

  /** Null = the settings are those in force, and nobody has asked. */
  function attempt<Wanted extends boolean>(isWanted: Wanted): Reloaded | (Wanted extends true ? never : null)
  function attempt(isWanted: boolean): Reloaded | null {
    const { config, generation } = inForce()
    try {
      const loaded = source.read()
      const changed = differences(config, loaded.config).map((path) => ({ path, name: path.join('.') }))
      const names = changed.map(({ name }) => name)
      const fixed = changed.filter(({ path }) => needsRestart(path)).map(({ name }) => name)
      if (fixed.length > 0) {
        return { result: 'restart', generation, mistakes: fixed.map((name) => `${name}: changes only with a restart`) }
      }
      if (names.length === 0 && !isWanted) return null
      const next = swap(loaded)
      if (watches.size > 0) watch(loaded.secretFiles)
      return { result: 'applied', generation: next, changed: names, warnings: loaded.warnings }
    } catch (error) {
      if (error instanceof ConfigError) return { result: 'invalid', generation, mistakes: error.mistakes }
      broke(error)
      return { result: 'invalid', generation, mistakes: ['the new settings could not be built: a bug of the proxy'] }
    }
  }

  function note(reloaded: Reloaded, because: string): void {
    told = mistakesOf(reloaded)
    tell(reloaded, because)
  }

  function watch(secretFiles: readonly string[]): void {
    const wanted = new Set([...source.files, ...secretFiles])
    for (const [path, one] of watches) {
      if (wanted.has(path)) continue
      one.close()
      watches.delete(path)
    }
    for (const path of wanted) if (!watches.has(path)) watches.set(path, watchFile(path, afterFirst(changed)))
  }

  function changed(): void {
    waiting?.cancel()
    waiting = clock.after(quietMs, () => {
      waiting = null
      const reloaded = attempt(false)
      if (reloaded === null) told = null
      else if (reloaded.result === 'applied' || mistakesOf(reloaded) !== told) note(reloaded, 'file')
    })
  }
}

/** The first look tells what is known. */
function afterFirst(changed: () => void): () => void {
  let isFirst = true
  return () => {
    if (!isFirst) changed()
    isFirst = false
  }
}

function mistakesOf(reloaded: Reloaded): string | null {
  return reloaded.result === 'applied' ? null : reloaded.mistakes.join('\n')
}
