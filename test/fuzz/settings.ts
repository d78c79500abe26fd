/**
 * Settings that are nearly settings: the example, with lines moved, doubled, cut, indented otherwise and filled with strange
 * values, and then damaged. They are right, or every mistake is a line of words with its place; no secret is in any of them.
 */
import { readFileSync } from 'node:fs'
import { known } from '../../src/compose.ts'
import { effective } from '../../src/config/describe.ts'
import { loadConfig } from '../../src/config/load.ts'
import { toYaml } from '../../src/config/yaml.ts'
import { ConfigError } from '../../src/errors.ts'
import { root } from '../support/process.ts'
import type { Chance } from './chance.ts'
import { type Fuzzer, playCases } from './round.ts'

export const example = readFileSync(`${root}config/example.yaml`, 'utf8')
const lines = example.split('\n').filter((line) => !/^\s*#/.test(line))

const environment = {
  SCRAPELLM_API_KEY: 'canary-env-key-0123456789',
  RESERVE_API_KEY: 'canary-env-reserve-0123456789',
  ADMIN_TOKEN: 'canary-env-admin-0123456789',
  REPORTS_TOKEN: 'canary-env-token-0123456789',
  REPORTS_TOKEN_NEXT: 'canary-env-next-0123456789',
  // Where no secret belongs: `check` shows it then, and mistakes do not.
  ELSEWHERE: 'canary-else-0123456789',
}

/** Where a secret belongs it may be written down, and must not be repeated. */
const secretLines = [
  '  token: canary-file-admin-01234567',
  '    - { name: main, secret: canary-file-key-01234567 }',
  '    - { name: main, secret: "canary-file key" }',
  '  keys: canary-file-key-01234567',
  '    token: [canary-file-token-01234567, canary-file-token-01234567]',
  '    token: { canary: canary-file-01234567 }',
  '  url: https://user:canary-file-password@api.example.com',
  'redis: { url: "redis://:canary-file-password@127.0.0.1:6379", password: canary-file-password }',
  'redis: { url: "http://:canary-file-password@127.0.0.1:6379" }',
  'redis: { url: ["redis://:canary-file-password@x"], signingKey: canary-file-sign-01234567 }',
  '  secret: file:/canary',
]

const values = [
  '',
  'null',
  '~',
  'true',
  'no',
  '0',
  '-1',
  '1e999',
  '0x10',
  '9007199254740993',
  '.nan',
  '.inf',
  '5',
  '5s',
  '99999d',
  '1.5h',
  '-5s',
  '1KiB',
  '999999TiB',
  '"',
  "'",
  '[',
  '[]',
  '{}',
  '{ a: b }',
  '- a',
  '&a',
  '*a',
  '!!js/function x',
  '!x y',
  '${',
  '${NOPE}',
  '${ELSEWHERE}',
  '${ELSEWHERE:-x}',
  '$${x}',
  '|',
  '>',
  '%',
  '@',
  '`',
  '\t',
  '\u{feff}',
  '\u{2028}',
  '\u{0}',
  'x'.repeat(3_000),
  '127.0.0.1',
  '0.0.0.0',
  '::1',
  'http://169.254.169.254',
  'https://[::1',
  'client',
  'durable',
  'constructor',
  '__proto__',
  'toString',
]

function aFile({ int, pick, isTrue }: Chance): string {
  const file = [...lines]
  for (let left = 1 + int(6); left > 0; left--) {
    const at = int(file.length)
    const line = file[at] ?? ''
    switch (int(9)) {
      case 0:
        file.splice(at, 1)
        break
      case 1:
        file.splice(at, 0, line)
        break
      case 2:
        file[at] = line.replace(/:.*/s, `: ${pick(values)}`)
        break
      case 3:
        file[at] = line.replace(/[\w.]+(?=[,\s}]*$)/, pick(values))
        break
      case 4:
        file[at] = ' '.repeat(int(9)) + line.trimStart()
        break
      case 5:
        file.splice(at, 0, pick(secretLines))
        break
      case 6:
        file[at] = line.replace(/\w+(?=:)/, (name) =>
          pick([`${name}x`, name.slice(1), name.toUpperCase(), '__proto__', pick(values)]),
        )
        break
      case 7:
        file.splice(at, 0, ...file.splice(int(file.length), 1 + int(5)))
        break
      default:
        file.splice(at, 0, pick(['---', '...', '# x', '&a [*a, *a]', 'x: *y', '<<: *a', '? a', pick(values)]))
    }
  }
  return isTrue(0.02) ? '' : file.join(pick(['\n', '\n', '\n', '\r\n', '\r']))
}

const sets = [
  '',
  '=',
  'log.level=debug',
  'x=y',
  '__proto__.x=1',
  'upstream.keys.0.secret=canary-file-set-01234567',
  'upstream.keys.9.secret=canary-file-set-01234567',
  'admin.token=canary-file-set',
  'cache=[',
  'listen.port=${PORT}',
  'clients.a.token=canary-file-set-01234567',
  'retry.classes.constructor={}',
  '.=.',
  'a..b=c',
]

function play(chance: Chance): string | null {
  const built = Buffer.from(aFile(chance))
  const text = (chance.isTrue(0.3) ? chance.damage(built) : built).toString()
  const set = chance.isTrue(0.2) ? [chance.pick(sets)] : []
  const about = (): string => JSON.stringify({ set, text: text.slice(0, 3_000) })
  try {
    const { config, warnings } = loadConfig(
      [{ name: 'fuzz.yaml', text }],
      set,
      environment,
      () => {
        throw Object.assign(new Error('canary'), { code: 'ENOENT' })
      },
      known,
    )
    const shown = toYaml(effective(config)) + warnings.join('\n')
    // A name may be anything, but for what was meant to be a secret.
    return /canary-(?:env|file)/.test(shown.replaceAll(/\*+\w{4}/g, ''))
      ? `a secret is shown: ${shown.slice(0, 500)} of ${about()}`
      : null
  } catch (error) {
    if (!(error instanceof ConfigError))
      return `${error instanceof Error ? String(error.stack) : String(error)} of ${about()}`
    if (error.mistakes.length === 0) return `no mistake of ${about()}`
    const odd = error.mistakes.find(
      (one) => one.trim() === '' || one.length > 2_000 || /\p{Cc}|^\s+at |\bundefined\b|\[object/u.test(one),
    )
    if (odd !== undefined) return `a strange mistake: ${JSON.stringify(odd)} of ${about()}`
    const telling = error.mistakes.find((one) => /canary-(?:env|file|else)/.test(one))
    return telling === undefined ? null : `a mistake that tells: ${telling} of ${about()}`
  }
}

export const fuzzSettings: Fuzzer = (_stage, round) =>
  playCases(round, 1, async (chance, number) => {
    // Lets the others have a turn, and progress be shown.
    if (number % 100 === 0) await new Promise(setImmediate)
    return play(chance)
  })
