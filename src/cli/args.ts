/**
 * The command line, read: which command, with which options. A command and an option are one row each of the tables
 * below, which the help text and the complaints are made of.
 */
import { parseArgs } from 'node:util'
import { nearest } from '../config/nearest.ts'
import { parseDuration } from '../config/units.ts'

interface CommandRow {
  readonly operand?: string
  readonly options: readonly OptionName[]
  readonly help: string
}

interface OptionRow {
  readonly value?: string
  readonly help: string
  /** What its value must be, where not anything will do. */
  readonly needs?: readonly [what: string, is: (value: string) => boolean]
}

const wholeNumber = 'a whole number from 1 to 100000000'

const options = {
  config: { value: 'FILE', help: 'settings; several are merged left to right (default: config/default.yaml)' },
  set: { value: 'path=value', help: 'one setting, over the files, such as --set log.level=debug' },
  port: {
    value: 'N',
    help: 'port to listen on; 0 = any free one',
    needs: ['a whole number from 0 to 65535', isPort],
  },
  quiet: { help: 'no traffic of its own' },
  audit: { value: 'FILE', help: 'an audit file; several are one recording' },
  candidate: { value: 'FILE', help: 'settings to compare, each file a column of its own' },
  recorded: { value: 'FILE', help: 'settings that were in force when it was recorded; several are merged' },
  outage: {
    value: '10m',
    help: 'weather: upstream answers 503 for so long',
    needs: ['a duration such as 10m', isLong],
  },
  'outage-at': {
    value: '5m',
    help: 'so long after the first request (default: a third of the way)',
    needs: ['a duration such as 5m', isDuration],
  },
  'failure-rate': {
    value: '0.2',
    help: 'weather: so many of the attempts fail, instead of those recorded',
    needs: ['a number from 0 to 1', isShare],
  },
  'rate-limit': {
    value: 'N/1m',
    help: 'weather: upstream takes so many attempts with one key',
    needs: ['a number per duration such as 60/1m', isRate],
  },
  slow: {
    value: '3x',
    help: 'weather: upstream takes so many times as long',
    needs: ['a factor such as 3x', isFactor],
  },
  requests: { value: 'N', help: 'so many invented requests instead of an audit file', needs: [wholeNumber, isCount] },
  rate: {
    value: 'R',
    help: 'invented requests per second (default: 10)',
    needs: ['a number above 0, at most 100000', isPerSecond],
  },
  seed: { value: 'N', help: 'other chance (default: 1)', needs: ['a whole number from 0 to 4294967295', isSeed] },
  json: { help: 'JSON instead of a table' },
  help: { help: 'this text' },
  version: { help: 'the version' },
} as const satisfies Record<string, OptionRow>

const commands = {
  serve: { options: ['config', 'set'], help: 'the proxy (what runs when no command is named)' },
  check: { options: ['config', 'set'], help: 'say every mistake in the settings, or print those in effect' },
  doctor: {
    options: ['config', 'set', 'json'],
    help: 'look at upstream, Redis, disk, ports and limits, and say what to do before it is started',
  },
  schema: { options: [], help: 'print the JSON Schema of the settings' },
  token: { operand: 'NAME', options: [], help: 'make a token for a client, and the lines for the settings' },
  simulator: { options: ['port'], help: 'only the simulated upstream' },
  demo: { options: ['config', 'set', 'quiet', 'port'], help: 'proxy and simulator, without a key and without a bill' },
  replay: {
    options: [
      ...(['audit', 'config', 'candidate', 'set', 'recorded', 'outage', 'outage-at', 'failure-rate'] as const),
      ...(['rate-limit', 'slow', 'requests', 'rate', 'seed', 'json'] as const),
    ],
    help: 'what other settings would have made of recorded requests (--audit), or of invented ones (--requests)',
  },
} as const satisfies Record<string, CommandRow>

type OptionName = keyof typeof options
export type CommandName = keyof typeof commands

export interface Invocation {
  readonly kind: 'run'
  readonly command: CommandName
  /** The NAME of `token NAME`. */
  readonly operand: string | null
  readonly configs: readonly string[]
  readonly sets: readonly string[]
  readonly port: number | null
  readonly quiet: boolean
  /** What the options with a value were given, in order; those of `replay` are read there. */
  readonly given: Readonly<Record<string, readonly string[]>>
  readonly json: boolean
}

export type Parsed =
  | Invocation
  | { readonly kind: 'help' }
  | { readonly kind: 'version' }
  /** One sentence that says what to write instead. */
  | { readonly kind: 'wrong'; readonly message: string }

const parsed = Object.fromEntries(
  Object.entries(options).map(([name, row]: [string, OptionRow]) => [
    name,
    row.value === undefined ? ({ type: 'boolean' } as const) : ({ type: 'string', multiple: true } as const),
  ]),
)
const shorthands = {
  ...parsed,
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'v' },
} as const

/** Never throws. */
export function parseCommandLine(words: readonly string[]): Parsed {
  const { values, positionals, tokens } = parseArgs({
    args: [...words],
    allowPositionals: true,
    strict: false,
    tokens: true,
    options: shorthands,
  })
  const given = tokens.filter((token) => token.kind === 'option')
  const complaint = given
    .map((option) => wrongOption(option.name, option.rawName, option.value))
    .find((one) => one !== null)
  if (complaint !== undefined) return wrong(complaint)
  if (values['help'] === true) return { kind: 'help' }
  if (values['version'] === true) return { kind: 'version' }

  const [command = 'serve', ...operands] = positionals
  if (!isCommand(command)) return wrong(unknown('command', command, Object.keys(commands)))
  const misfit = misfitOf(
    command,
    operands,
    given.map((option) => option.name),
  )
  if (misfit !== null) return wrong(misfit)
  const [port] = texts(values['port']).slice(-1)
  return {
    kind: 'run',
    command,
    operand: operands[0] ?? null,
    configs: texts(values['config']),
    sets: texts(values['set']),
    port: port === undefined ? null : Number(port),
    quiet: values['quiet'] === true,
    given: Object.fromEntries(Object.entries(values).map(([name, value]) => [name, texts(value)])),
    json: values['json'] === true,
  }
}

/** The text of `--help`. */
export function helpText(): string {
  const rows = Object.entries(commands).map(
    ([name, row]: [string, CommandRow]) => [`${name} ${row.operand ?? ''}`.trim(), row.help] as const,
  )
  const flags = Object.entries(options).map(
    ([name, row]: [string, OptionRow]) => [`--${name} ${row.value ?? ''}`.trim(), row.help] as const,
  )
  return [
    'scrapellm-proxy [COMMAND] [--config FILE]… [--set path=value]…',
    '',
    ...columns(rows),
    '',
    ...columns(flags),
    '',
    'Exit codes: 0 clean stop, 78 wrong settings, 1 anything else.',
    '',
  ].join('\n')
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  return rows.map(([left, right]) => `  ${left.padEnd(18)} ${right}`)
}

function wrongOption(name: string, written: string, value: string | undefined): string | null {
  if (!isOption(name))
    return unknown(
      'option',
      written,
      Object.keys(options).map((option) => `--${option}`),
    )
  const row: OptionRow = options[name]
  if (row.value !== undefined && (value === undefined || value === ''))
    return `${written} needs a value: ${written} ${row.value}`
  if (row.value === undefined && value !== undefined) return `${written} takes no value`
  if (row.needs && value !== undefined && !row.needs[1](value)) return `--${name} needs ${row.needs[0]}`
  return null
}

function misfitOf(command: CommandName, operands: readonly string[], given: readonly string[]): string | null {
  const row: CommandRow = commands[command]
  const wanted = row.operand === undefined ? 0 : 1
  if (operands.length < wanted) return `${command} needs a ${row.operand}: scrapellm-proxy ${command} ${row.operand}`
  const surplus = operands[wanted]
  if (surplus !== undefined)
    return `${command} takes ${wanted === 0 ? 'no argument' : 'one argument'}; "${surplus}" is too many`
  const foreign = given.find((name) => !row.options.some((option) => option === name))
  return foreign === undefined ? null : `--${foreign} is not an option of ${command}`
}

function unknown(what: string, word: string, known: readonly string[]): string {
  const near = nearest(word, known)
  return `unknown ${what} "${word}"; ${near === null ? `known are ${known.join(', ')}` : `did you mean "${near}"?`}`
}

function wrong(message: string): Parsed {
  return { kind: 'wrong', message }
}

function isCommand(word: string): word is CommandName {
  return Object.hasOwn(commands, word)
}

function isOption(word: string): word is OptionName {
  return Object.hasOwn(options, word)
}

function isPort(value: string): boolean {
  return /^\d{1,5}$/.test(value) && Number(value) <= 65_535
}

function isDuration(value: string): boolean {
  return parseDuration(value) !== null
}

function isLong(value: string): boolean {
  return (parseDuration(value) ?? 0) > 0
}

function isShare(value: string): boolean {
  return /^\d(\.\d+)?$/.test(value) && Number(value) <= 1
}

function isRate(value: string): boolean {
  const [count = '', per = ''] = value.split('/')
  return isCount(count) && isLong(per) && value.split('/').length === 2
}

function isFactor(value: string): boolean {
  return /^\d{1,3}(\.\d+)?x$/.test(value) && Number.parseFloat(value) > 0
}

function isCount(value: string): boolean {
  return /^[1-9]\d{0,8}$/.test(value) && Number(value) <= 100_000_000
}

function isPerSecond(value: string): boolean {
  return /^\d{1,6}(\.\d+)?$/.test(value) && Number(value) > 0 && Number(value) <= 100_000
}

function isSeed(value: string): boolean {
  return /^\d{1,10}$/.test(value) && Number(value) < 2 ** 32
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === 'string') : []
}
