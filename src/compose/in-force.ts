/**
 * The settings in force: those at start until the first serving is made, then those of the current one. For parts that live
 * longer than any settings.
 */
import type { Config } from '../config/schema.ts'
import type { Generations } from '../generations.ts'
import type { Client } from '../model.ts'
import { clientOf } from '../options.ts'

export interface InForce {
  config(): Config
  /** Those of older settings that are still in use, too. */
  clients(): readonly Client[]
  clientNamed(name: string): Client | null
  /** Throws before the first serving is made. */
  readonly generations: Generations
}

export class SettingsInForce implements InForce {
  readonly #first: Config
  readonly #firstClients: readonly Client[]
  #generations: Generations | null = null

  constructor(first: Config) {
    this.#first = first
    this.#firstClients = Object.keys(first.clients).map((name) => clientOf(first, name))
  }

  begin(generations: Generations): Generations {
    this.#generations = generations
    return generations
  }

  get generations(): Generations {
    if (!this.#generations) throw new Error('No settings are in force yet.')
    return this.#generations
  }

  readonly config = (): Config => this.#generations?.current.config ?? this.#first

  readonly clients = (): readonly Client[] => this.#generations?.people() ?? this.#firstClients

  readonly clientNamed = (name: string): Client | null => this.clients().find((client) => client.name === name) ?? null
}
