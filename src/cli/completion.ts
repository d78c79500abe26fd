/**
 * `completion SHELL`: a script that lets a shell complete commands, options, files and names of settings. Made of the tables of the command
 * line, so that it knows what the program knows; nothing is run while somebody types.
 */
import { settingNames } from '../config/describe.ts'
import {
  commands,
  options,
  optionsOf,
  shells,
  type CommandName,
  type CommandRow,
  type OptionRow,
  type Shell,
} from './commands.ts'
import type { Io } from './io.ts'

/** Resolves to the exit code. */
export async function runCompletion(
  { operand }: { readonly operand: string | null },
  io: Pick<Io, 'stdout'>,
): Promise<number> {
  const shell = shells.find((one) => one === operand)
  if (shell === undefined) return 1
  io.stdout(scripts[shell]())
  return 0
}

const scripts: Readonly<Record<Shell, () => string>> = { bash, zsh, fish }

const names = Object.keys(commands) as CommandName[]
const takingFiles = named((row) => row.value === 'FILE')
const takingOthers = named((row) => row.value !== undefined && row.value !== 'FILE')

function named(is: (row: OptionRow) => boolean): string[] {
  return Object.entries(options).flatMap(([name, row]: [string, OptionRow]) => (is(row) ? [`--${name}`] : []))
}

function choicesOf(command: CommandName): readonly string[] {
  const { choices = [] }: CommandRow = commands[command]
  return choices
}

/** What may follow: the first word may be an option of `serve`, which runs when no command is named. */
function wordsAfter(command: CommandName): string {
  return [...choicesOf(command), ...optionsOf(command).map(([name]) => `--${name}`)].join(' ')
}

function bash(): string {
  const cases = names.map((name) => `    ${name}) words='${wordsAfter(name)}' ;;`)
  return `# bash: eval "$(scrapellm-proxy completion bash)", or as a file in ~/.local/share/bash-completion/completions/scrapellm-proxy
_scrapellm_proxy() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]} command='' words='' index IFS=$' \\t\\n'
  # "--config=FILE" comes as three words.
  if [[ $current == = ]]; then current=''; elif [[ $previous == = ]]; then previous=\${COMP_WORDS[COMP_CWORD - 2]}; fi
  COMPREPLY=()
  for ((index = 1; index < COMP_CWORD; index++)); do
    case \${COMP_WORDS[index]} in ${names.join('|')}) command=\${COMP_WORDS[index]}; break ;; esac
  done
  case $previous in
    ${takingFiles.join('|')})
      compopt -o filenames 2> /dev/null
      IFS=$'\\n'
      COMPREPLY=($(compgen -f -- "$current"))
      return ;;
    --set)
      compopt -o nospace 2> /dev/null
      COMPREPLY=($(compgen -W '${settingNames()
        .map((name) => `${name}=`)
        .join(' ')}' -- "$current"))
      return ;;
    ${takingOthers.filter((name) => name !== '--set').join('|')}) return ;;
  esac
  case $command in
    '') words='${names.join(' ')} ${wordsAfter('serve')}' ;;
${cases.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _scrapellm_proxy scrapellm-proxy
`
}

function zsh(): string {
  const described = names.map((name) => quoted(`${name}:${commands[name].help.replaceAll(':', String.raw`\:`)}`))
  const cases = names.map((name) => {
    const choices = choicesOf(name)
    const operand = choices.length > 0 ? [quoted(`1:${name}:(${choices.join(' ')})`)] : []
    return `    ${name}) _arguments ${[...operand, ...optionsOf(name).map(zshOption)].join(' ')} ;;`
  })
  return `#compdef scrapellm-proxy
# zsh: as a file _scrapellm-proxy in a folder of $fpath, or source <(scrapellm-proxy completion zsh) after compinit
_scrapellm_proxy_settings() {
  local -a settings=(${settingNames()
    .map((name) => `${name}=`)
    .join(' ')})
  compadd -S '' -a settings
}
_scrapellm_proxy() {
  local -a described=(
    ${described.join('\n    ')}
  )
  if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
    _describe command described
    return
  fi
  local command=serve
  if [[ $words[2] != -* ]]; then
    command=$words[2]
    shift words
    (( CURRENT-- ))
  fi
  case $command in
${cases.join('\n')}
  esac
}
if [[ $funcstack[1] == _scrapellm-proxy ]]; then _scrapellm_proxy "$@"; else compdef _scrapellm_proxy scrapellm-proxy; fi
`
}

function zshOption([name, { value, help }]: readonly [string, OptionRow]): string {
  const text = help.replaceAll(/[[\]:]/g, String.raw`\$&`)
  if (value === undefined) return quoted(`--${name}[${text}]`)
  const action = value === 'FILE' ? '_files' : name === 'set' ? '_scrapellm_proxy_settings' : ' '
  return quoted(`*--${name}=[${text}]:${value}:${action}`)
}

function fish(): string {
  const first = names.map(
    (name) => `complete -c scrapellm-proxy -f -n __fish_use_subcommand -a ${name} -d ${quoted(commands[name].help)}`,
  )
  const own = names.flatMap((name) => {
    const when = `-n '__fish_seen_subcommand_from ${name}'`
    const choices =
      choicesOf(name).length > 0 ? [`complete -c scrapellm-proxy -f ${when} -a '${choicesOf(name).join(' ')}'`] : []
    return [...choices, ...optionsOf(name).map((option) => fishOption(option, when))]
  })
  // Without a command it is \`serve\`.
  const bare = optionsOf('serve').map((option) => fishOption(option, '-n __fish_use_subcommand'))
  return `# fish: scrapellm-proxy completion fish > ~/.config/fish/completions/scrapellm-proxy.fish
complete -c scrapellm-proxy -f
${[...first, ...bare, ...own].join('\n')}
`
}

function fishOption([name, { value, help }]: readonly [string, OptionRow], when: string): string {
  const settings = `-x -a '${settingNames()
    .map((one) => `${one}=`)
    .join(' ')}'`
  const taken = value === undefined ? '' : value === 'FILE' ? ' -r -F' : name === 'set' ? ` ${settings}` : ' -x'
  return `complete -c scrapellm-proxy ${when} -l ${name}${taken} -d ${quoted(help)}`
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`
}
