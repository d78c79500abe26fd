/** The command line, read by the tables of `commands.ts`: which command, with which options; or a sentence about what is wrong with it. */
import { parseArgs } from 'node:util'
import { nearest } from '../config/nearest.ts'
import {
  commands,
  isCommand,
  isOption,
  options,
  type CommandName,
  type CommandRow,
  type OptionRow,
} from './commands.ts'

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
  /** Of one command, or of all. */
  | { readonly kind: 'help'; readonly command: CommandName | null }
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
  if (values['version'] === true) return { kind: 'version' }
  const wantsHelp = values['help'] === true || positionals[0] === 'help'
  const [named, ...operands] = positionals[0] === 'help' ? positionals.slice(1) : positionals
  const command = named ?? 'serve'
  if (!isCommand(command)) return wrong(unknown('command', command, Object.keys(commands)))
  if (wantsHelp) return { kind: 'help', command: named === undefined ? null : command }
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
  if (foreign === undefined) return null
  const own = row.options.map((option) => `--${option}`)
  return `--${foreign} is not an option of ${command}, which has ${own.length === 0 ? 'none' : own.join(', ')}`
}

function unknown(what: string, word: string, known: readonly string[]): string {
  const near = nearest(word, known)
  return `unknown ${what} "${word}"; ${near === null ? `known are ${known.join(', ')}` : `did you mean "${near}"?`}`
}

function wrong(message: string): Parsed {
  return { kind: 'wrong', message }
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === 'string') : []
}
