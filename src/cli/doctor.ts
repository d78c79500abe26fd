/** `doctor`: looks at the world that the settings speak of, and says what to do; one line for each thing, or JSON. */
import { upstreamKeys } from '../compose.ts'
import { sharedOptions } from '../options.ts'
import { finding, fine, type Finding, type Status } from '../doctor/finding.ts'
import { examineMachine } from '../doctor/machine.ts'
import { examineFoldersAndPorts } from '../doctor/folders-and-ports.ts'
import { examineRedis } from '../doctor/redis.ts'
import { examineDeployment } from '../doctor/deployment.ts'
import { examineUpstream } from '../doctor/upstream.ts'
import { ConfigError } from '../errors.ts'
import { limitsHere } from './limits.ts'
import type { Io } from './io.ts'
import { readSettings, type Wanted } from './settings.ts'

export interface DoctorWanted extends Wanted {
  readonly json: boolean
}

/** Colours where the output is a terminal that wants them. */
export interface DoctorIo extends Io {
  readonly paint: (colour: 'green' | 'yellow' | 'red' | 'cyan', text: string) => string
}

const colours = { ok: 'green', warn: 'yellow', fail: 'red', note: 'cyan' } as const satisfies Record<Status, string>

/** Resolves to the exit code: 0, or 1 where something fails, or 78 for wrong settings. */
export async function runDoctor(wanted: DoctorWanted, io: DoctorIo): Promise<number> {
  const { findings, exitCode } = await examine(wanted, io)
  io.stdout(wanted.json ? `${JSON.stringify({ findings }, null, 2)}\n` : told(findings, io.paint))
  return exitCode
}

async function examine(wanted: DoctorWanted, io: DoctorIo): Promise<{ findings: Finding[]; exitCode: number }> {
  try {
    const { config, warnings } = readSettings(wanted, io)
    const machine = {
      node: process.versions.node,
      ...limitsHere(),
    }
    const looks = await Promise.all([
      examineUpstream(config.upstream, upstreamKeys, io.environment),
      config.redis ? examineRedis(sharedOptions(config.redis)) : [],
      examineFoldersAndPorts(config, io.cwd),
    ])
    const findings = [
      fine('settings', 'no mistake'),
      ...warnings.map((warning) => finding('warn', 'settings', warning, 'change it, if it is not meant so')),
      ...looks.flat(),
      ...examineMachine(machine, config),
      ...examineDeployment(config),
    ]
    return { findings, exitCode: findings.some(({ status }) => status === 'fail') ? 1 : 0 }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const findings = error.mistakes.map((mistake) => finding('fail', 'settings', mistake, 'nothing else was looked at'))
    return { findings, exitCode: 78 }
  }
}

function told(findings: readonly Finding[], paint: DoctorIo['paint']): string {
  const width = Math.max(...findings.map(({ name }) => name.length))
  const lines = findings.map(({ name, status, text, advice }) => {
    const rest = advice === null ? '' : `; ${advice}`
    return `${paint(colours[status], status.padEnd(4))}  ${name.padEnd(width)}  ${text}${rest}`
  })
  const count = (wanted: Status): number => findings.filter(({ status }) => status === wanted).length
  return [...lines, '', `${count('fail')} failed, ${count('warn')} warnings, ${count('note')} notes.`, ''].join('\n')
}
