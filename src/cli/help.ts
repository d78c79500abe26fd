/** The texts of `--help`: of all commands, and of one. */
import { commands, options, optionsOf, type CommandName, type CommandRow, type OptionRow } from './commands.ts'

export function helpText(command: CommandName | null): string {
  return [...(command === null ? generalHelp() : helpOf(command)), ''].join('\n')
}

function generalHelp(): string[] {
  const rows = Object.entries(commands).map(
    ([name, row]: [string, CommandRow]) => [signature(name, row), row.help] as const,
  )
  return [
    'scrapellm-proxy [COMMAND] [--config FILE]… [--set path=value]…',
    '',
    ...columns(rows),
    '',
    ...columns(Object.entries(options).map(optionRow)),
    '',
    'scrapellm-proxy COMMAND --help says more about one.',
    exitCodes,
  ]
}

function helpOf(command: CommandName): string[] {
  const row: CommandRow = commands[command]
  return [
    `scrapellm-proxy ${signature(command, row)}${row.options.length > 0 ? ' [OPTION]…' : ''}`,
    '',
    `  ${row.help}`,
    '',
    ...columns(optionsOf(command).map(optionRow)),
    '',
    exitCodes,
  ]
}

const exitCodes = 'Exit codes: 0 clean stop, 78 wrong settings, 1 anything else.'

function signature(name: string, { operand = '' }: CommandRow): string {
  return `${name} ${operand}`.trim()
}

function optionRow([name, { value = '', help }]: readonly [string, OptionRow]): readonly [string, string] {
  return [`--${name} ${value}`.trim(), help]
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  return rows.map(([left, right]) => `  ${left.padEnd(18)} ${right}`)
}
