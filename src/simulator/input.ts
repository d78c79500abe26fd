// Reads what arrives as JSON (scripts, switches, weather, accounts) and says what is wrong with it.
// The simulator's inputs come from tests and from curl: both get a sentence instead of a silent default.

export class SimulatorInputError extends Error {
  override name = 'SimulatorInputError'
}

export type Fields = Readonly<Record<string, unknown>>

export function readFields(value: unknown, what: string, allowed: readonly string[]): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new SimulatorInputError(`${what} must be an object`)
  }
  for (const name of Object.keys(value)) {
    if (!allowed.includes(name)) {
      throw new SimulatorInputError(`${what} has no field "${name}"; it has ${allowed.join(', ')}`)
    }
  }
  return value as Fields
}

export function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new SimulatorInputError(message)
}

export function checkOptional(fields: Fields, types: Readonly<Record<string, 'string' | 'number' | 'boolean'>>): void {
  for (const [name, type] of Object.entries(types)) {
    const value = fields[name]
    if (value === undefined) continue
    check(typeof value === type, `${name} must be a ${type}`)
    check(typeof value !== 'number' || value >= 0, `${name} must not be negative`)
  }
}
