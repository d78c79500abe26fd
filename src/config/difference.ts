/** Where two configurations differ, by the paths of their fields. Secrets are compared, and never told. */
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

function isSameSecret(before: unknown, after: unknown): boolean {
  return before instanceof Secret && after instanceof Secret && before.reveal() === after.reveal()
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
