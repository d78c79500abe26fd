/**
 * Puts changed settings in force while the proxy runs: on request, and when a file they come from changes. They are read,
 * checked and built aside, and swapped at once; any mistake leaves everything as it was. A setting that needs a restart keeps its
 * value, and all others change. Without a pause from reading to swapping, so that two reloads never meet. Knows nothing of what
 * is built.
 *
 * A changed file is read a moment later, when its writer has probably finished; what is still half written then is a mistake, and
 * read again with its next change.
 */
import { ConfigError } from '../errors.ts'
import type { Clock, Timer, World } from '../ports.ts'
import { needsRestart } from './describe.ts'
import { differences, withOld } from './difference.ts'
import type { Loaded } from './load.ts'
import type { Config } from './schema.ts'
import type { Path } from './tree.ts'

/** Where settings come from. */
export interface SettingsSource {
  /** Throws a ConfigError with every mistake. */
  read(): Loaded
  /** Those that hold settings. */
  readonly files: readonly string[]
}

/** Settings are given by their names: values may be secret. */
export type Reloaded =
  | {
      /** `restart` = all but those that wait for a restart. */
      readonly result: 'applied' | 'restart'
      readonly generation: number
      readonly changed: readonly string[]
      /** Changed in the files, in force after a restart. */
      readonly waiting: readonly string[]
      readonly warnings: readonly string[]
    }
  /** Nothing has changed. */
  | { readonly result: 'invalid'; readonly generation: number; readonly mistakes: readonly string[] }

/** How the files differ from what is in force, as of the last look; empty = they do not. */
export interface Unapplied {
  /** Why the settings in the files were refused. */
  readonly mistakes: readonly string[]
  /** Names of settings. */
  readonly waiting: readonly string[]
}

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
  readonly unapplied: Unapplied
  close(): void
}

const quietMs = 1_000

export function createReloader({ source, clock, watchFile, inForce, swap, tell, broke }: ReloadPorts): Reloader {
  const watches = new Map<string, { close(): void }>()
  let waiting: Timer | null = null
  let unapplied: Unapplied = { mistakes: [], waiting: [] }

  return {
    reload(because) {
      const reloaded = attempt()
      note(reloaded, because)
      return reloaded
    },
    watch,
    get unapplied() {
      return unapplied
    },
    close() {
      waiting?.cancel()
      for (const one of watches.values()) one.close()
      watches.clear()
    },
  }

  function attempt(): Reloaded {
    const { config, generation } = inForce()
    try {
      const loaded = source.read()
      const changed = differences(config, loaded.config)
      const fixed = changed.filter(needsRestart)
      const waiting = fixed.map(nameOf)
      const next = fixed.length > 0 ? withOld(config, loaded.config, fixed) : loaded.config
      // Old and new settings may be wrong only together.
      const flaws = [...(fixed.length > 0 ? loaded.flawsOf(next) : []), ...opensToAll(config, next)]
      if (flaws.length > 0) {
        const mistakes = [...flaws, ...waiting.map((name) => `${name}: changes only with a restart`)]
        return { result: 'invalid', generation, mistakes }
      }
      return {
        result: fixed.length > 0 ? 'restart' : 'applied',
        generation: swapTo({ ...loaded, config: next }),
        changed: changed.filter((path) => !needsRestart(path)).map(nameOf),
        waiting,
        warnings: loaded.warnings,
      }
    } catch (error) {
      if (error instanceof ConfigError) return { result: 'invalid', generation, mistakes: error.mistakes }
      broke(error)
      return { result: 'invalid', generation, mistakes: ['the new settings could not be built: a bug of the proxy'] }
    }
  }

  function swapTo(loaded: Loaded): number {
    const generation = swap(loaded)
    if (watches.size > 0) watch(loaded.secretFiles)
    return generation
  }

  function note(reloaded: Reloaded, because: string): void {
    const { mistakes, waiting } = { mistakes: [], waiting: [], ...reloaded }
    unapplied = { mistakes, waiting }
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
      if (isNews()) note(attempt(), 'file')
    })
  }

  /** A comment is no change, but for the end of a mistake. */
  function isNews(): boolean {
    if (unapplied.mistakes.length > 0) return true
    try {
      const names = differences(inForce().config, source.read().config).map(nameOf)
      return names.join() !== unapplied.waiting.join()
    } catch {
      return true
    }
  }
}

/**
 * A file that is read while it is written may end before `clients`, and the default lets callers in without a token: then nobody would need one.
 */
function opensToAll(current: Config, next: Config): string[] {
  const isOpen = Object.keys(next.clients).join() === 'anonymous'
  if (!isOpen || 'anonymous' in current.clients) return []
  return [
    'clients: no client with a token is left, so callers without one would be let in; if that is meant, restart the proxy',
  ]
}

function nameOf(path: Path): string {
  return path.join('.')
}

/** The first look tells what is known. */
function afterFirst(changed: () => void): () => void {
  let isFirst = true
  return () => {
    if (!isFirst) changed()
    isFirst = false
  }
}
