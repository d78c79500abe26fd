/** Every command and option, a row each: what the command line is read by, and what help and complaints are made of. */
import { parseDuration } from '../config/units.ts'
import { failureNames } from '../replay/faults.ts'

export interface CommandRow {
  readonly operand?: string
  readonly options: readonly OptionName[]
  readonly help: string
}

export interface OptionRow {
  readonly value?: string
  readonly help: string
  /** What its value must be, where not anything will do. */
  readonly needs?: readonly [what: string, is: (value: string) => boolean]
}

const wholeNumber = 'a whole number from 1 to 100000000'

export const options = {
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
    help: 'weather: every attempt fails for so long (503, or --failure-class)',
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
  'failure-class': {
    value: 'serverError',
    help: 'how the failures of --failure-rate and --outage end',
    needs: [`a class of failure: ${failureNames.join(', ')}`, isFailureClass],
  },
  'failure-duration': {
    value: '1s',
    help: 'weather: failures take so long (default: as recorded; those of the weather 1s)',
    needs: ['a duration such as 1s', isDuration],
  },
  latency: {
    value: '5s-30s',
    help: 'weather: nine of ten answers take so long (default: as recorded, or 5s-30s)',
    needs: ['two durations, the shorter one first, such as 5s-30s', isRange],
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
  month: { value: 'YYYY-MM', help: 'the month, UTC (default: this one)', needs: ['a month such as 2026-11', isMonth] },
  format: { value: 'FORMAT', help: 'csv or json (default: csv)', needs: ['csv or json', isFormat] },
  help: { help: 'this text' },
  version: { help: 'the version' },
} as const satisfies Record<string, OptionRow>

export const commands = {
  serve: { options: ['config', 'set'], help: 'the proxy (what runs when no command is named)' },
  check: { options: ['config', 'set'], help: 'say every mistake in the settings, or print those in effect' },
  doctor: {
    options: ['config', 'set', 'json'],
    help: 'look at upstream, Redis, disk, ports and limits, and say what to do before it is started',
  },
  schema: { options: [], help: 'print the JSON Schema of the settings' },
  report: {
    options: ['config', 'set', 'month', 'format'],
    help: 'what each client had and paid in a month, by day, scraper and key',
  },
  trace: {
    operand: 'ID',
    options: ['config', 'set'],
    help: 'what became of a request, attempt by attempt, by the X-Request-Id of its answer',
  },
  token: { operand: 'NAME', options: [], help: 'make a token for a client, and the lines for the settings' },
  simulator: { options: ['port'], help: 'only the simulated upstream' },
  demo: { options: ['config', 'set', 'quiet', 'port'], help: 'proxy and simulator, without a key and without a bill' },
  replay: {
    options: [
      ...(['audit', 'config', 'candidate', 'set', 'recorded', 'outage', 'outage-at', 'failure-rate'] as const),
      ...([
        'failure-class',
        'failure-duration',
        'latency',
        'rate-limit',
        'slow',
        'requests',
        'rate',
        'seed',
        'json',
      ] as const),
    ],
    help: 'what other settings would have made of recorded requests (--audit), or of invented ones (--requests)',
  },
} as const satisfies Record<string, CommandRow>

export type OptionName = keyof typeof options
export type CommandName = keyof typeof commands

export function isCommand(word: string): word is CommandName {
  return Object.hasOwn(commands, word)
}

export function isOption(word: string): word is OptionName {
  return Object.hasOwn(options, word)
}

/** Which options a command has; the two that all have come last. */
export function optionsOf(command: CommandName): readonly (readonly [name: OptionName, row: OptionRow])[] {
  const { options: own }: CommandRow = commands[command]
  return [...own, 'help' as const, 'version' as const].map((name) => [name, options[name]])
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

function isFailureClass(value: string): boolean {
  return failureNames.includes(value)
}

function isRange(value: string): boolean {
  const [fast = '', slow = '', ...others] = value.split('-')
  return isLong(fast) && isLong(slow) && others.length === 0 && (parseDuration(fast) ?? 0) < (parseDuration(slow) ?? 0)
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

function isMonth(value: string): boolean {
  return /^\d{4}-(0[1-9]|1[0-2])$/.test(value)
}

function isFormat(value: string): boolean {
  return value === 'csv' || value === 'json'
}

function isSeed(value: string): boolean {
  return /^\d{1,10}$/.test(value) && Number(value) < 2 ** 32
}
