/**
 * `report --month 2026-11`: what each client had and paid. Asked of the proxy that runs with these settings; where none does, read from
 * its data folder.
 */
import { readReport } from '../compose.ts'
import type { World } from '../ports.ts'
import { askAdmin } from './ask-admin.ts'
import type { Io } from './io.ts'
import { readSettings, type Wanted, withoutKey } from './settings.ts'

interface ReportWanted extends Wanted {
  readonly month: string
  readonly format: 'csv' | 'json'
}

type Ports = Pick<Io, 'stdout' | 'stderr' | 'environment' | 'readFile' | 'cwd'>

/** Resolves to the exit code. */
export async function runReport(wanted: ReportWanted, io: Ports, world: World): Promise<number> {
  const { config } = readSettings(wanted, withoutKey(io))
  const target = `/report?month=${wanted.month}&format=${wanted.format}`
  const { at, answer } = await askAdmin(config.admin, target, '*/*', io)
  if (answer?.status === 200) {
    io.stdout(answer.text.endsWith('\n') ? answer.text : `${answer.text}\n`)
    return 0
  }
  if (answer) {
    io.stderr(`The admin port at ${at} answered ${answer.status}: ${answer.text}\n`)
    return 1
  }
  const report = readReport(config, world, wanted.month)
  if (report) {
    io.stdout(wanted.format === 'csv' ? report.asCsv() : `${JSON.stringify(report.asJson())}\n`)
    return 0
  }
  io.stderr(
    `No proxy answers at ${at}, and there is no data folder to read: start the proxy, or give the settings it runs with by --config.\n`,
  )
  return 1
}
