/** Where two configurations differ, by the paths of their fields, and one with some fields of another. Secrets are compared, and never told. */
import { Secret } from '../keys/secret.ts'
import type { Config } from './schema.ts'
import type { Path } from './tree.ts'

export function differences(before: Config, after: Config): Path[] {
  return between(before, after, [])
}

function between(before: unknown, after: unknown, path: Path): Path[] {
  if (before instanceof Secret || after instanceof Secret) return isSameSecret(before, after) ? [] : [path]
  if (Array.isArray(before) && Array.isArray(after) && before.length === after.length)
    return before.flatMap((item: unknown, index) => between(item, after[index], [...path, String(index)]))
  if (!isMap(before) || !isMap(after)) return Object.is(before, after) ? [] : [path]
  const names = new Set([...Object.keys(before), ...Object.keys(after)])
  return [...names].flatMap((name) => between(before[name], after[name], [...path, name]))
}

/** `after`, but what is at these paths is as in `before`. */
export function withOld(before: Config, after: Config, paths: readonly Path[]): Config {
  return paths.reduce<unknown>((merged, path) => put(before, merged, path), after) as Config
}

function put(from: unknown, into: unknown, path: Path): unknown {
  const [step, ...rest] = path
  if (step === undefined) return from
  if (Array.isArray(from) && Array.isArray(into)) {
    const index = Number(step)
    return Object.freeze(into.with(index, put(from[index], into[index], rest)))
  }
  if (!isMap(from) || !isMap(into)) return from
  const { [step]: replaced, ...others } = into
  if (!Object.hasOwn(from, step)) return Object.freeze(others)
  return Object.freeze({ ...others, [step]: put(from[step], replaced, rest) })
}

function isSameSecret(before: unknown, after: unknown): boolean {
  return before instanceof Secret && after instanceof Secret && before.reveal() === after.reveal()
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
