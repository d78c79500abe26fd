/**
 * The command line, read: which command, with which options. A command and an option are one row each of the tables
 * below, which the help text and the complaints are made of.
 */
import { parseArgs } from 'node:util'
import { nearest } from '../config/nearest.ts'

interface CommandRow {
  readonly operand?: string
  readonly options: readonly OptionName[]
  readonly help: string
}

interface OptionRow {
  readonly value?: string
  readonly help: string
}

const options = {
  config: { value: 'FILE', help: 'settings; several are merged left to right (default: config/default.yaml)' },
  set: { value: 'path=value', help: 'one setting, over the files, such as --set log.level=debug' },
  port: { value: 'N', help: 'port to listen on; 0 = any free one' },
  quiet: { help: 'no traffic of its own' },
  help: { help: 'this text' },
  version: { help: 'the version' },
} as const satisfies Record<string, OptionRow>

const commands = {
  serve: { options: ['config', 'set'], help: 'the proxy (what runs when no command is named)' },
  check: { options: ['config', 'set'], help: 'say every mistake in the settings, or print those in effect' },
  schema: { options: [], help: 'print the JSON Schema of the settings' },
  token: { operand: 'NAME', options: [], help: 'make a token for a client, and the lines for the settings' },
  simulator: { options: ['port'], help: 'only the simulated upstream' },
  demo: { options: ['config', 'set', 'quiet', 'port'], help: 'proxy and simulator, without a key and without a bill' },
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
}

export type Parsed =
  | Invocation
  | { readonly kind: 'help' }
  | { readonly kind: 'version' }
  /** One sentence that says what to write instead. */
  | { readonly kind: 'wrong'; readonly message: string }

/** Never throws. */
export function parseCommandLine(words: readonly string[]): Parsed {
  const { values, positionals, tokens } = parseArgs({
    args: [...words],
    allowPositionals: true,
    strict: false,
    tokens: true,
    options: {
      config: { type: 'string', multiple: true },
      set: { type: 'string', multiple: true },
      port: { type: 'string' },
      quiet: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
      version: { type: 'boolean', short: 'v' },
    },
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
  const port = typeof values['port'] === 'string' ? Number(values['port']) : null
  return {
    kind: 'run',
    command,
    operand: operands[0] ?? null,
    configs: texts(values['config']),
    sets: texts(values['set']),
    port,
    quiet: values['quiet'] === true,
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
  if (name === 'port' && !isPort(value)) return '--port needs a whole number from 0 to 65535'
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

function isPort(value: string | undefined): boolean {
  return value !== undefined && /^\d{1,5}$/.test(value) && Number(value) <= 65_535
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === 'string') : []
}
