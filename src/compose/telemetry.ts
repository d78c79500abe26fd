/** Builds what records what happens: log, metrics, access lines, audit, traces, history. Opened first, because every other part reports here. */
import type { Config } from '../config/schema.ts'
import { matches } from '../http/respond.ts'
import { createLinkedList } from '../linked-list.ts'
import type { Exchange } from '../model.ts'
import type { World } from '../ports.ts'
import { auditOptions, keyNamesOf, secretsOf, tiersOf } from '../options.ts'
import { createAccessLog } from '../telemetry/access-log.ts'
import { createAudit } from '../telemetry/audit.ts'
import { createHistory } from '../telemetry/history.ts'
import { createLog } from '../telemetry/log.ts'
import { createMetrics } from '../telemetry/metrics.ts'
import { createPace } from '../telemetry/pace.ts'
import { createRecorder, type Watcher } from '../telemetry/recorder.ts'
import { createTracing } from '../telemetry/tracing.ts'
import type { Closing } from './closing.ts'

export interface TelemetryBase {
  readonly config: Config
  readonly world: World
  readonly version: string
  readonly scrapers: readonly string[]
  readonly closing: Closing
}

export type Telemetry = ReturnType<typeof buildTelemetry>

export function buildTelemetry({ config, world, version, scrapers, closing }: TelemetryBase) {
  const { clock, random, output } = world
  closing.add(output.flush)
  const log = createLog({ level: config.log.level, sink: output.write, secrets: secretsOf(config) })
  const metrics = createMetrics({
    clients: Object.keys(config.clients),
    scrapers,
    keys: keyNamesOf(config),
    tiers: tiersOf(config),
    version,
  })
  const auditFile = config.audit
    ? world.openAuditFile(auditOptions(config.audit), (event) => recorder.emit(event))
    : null
  if (auditFile) closing.add(auditFile.close)
  const open = createLinkedList<Exchange>()
  const audit = createAudit(
    { prompts: config.log.prompts },
    {
      clock,
      open,
      append: auditFile?.append ?? null,
    },
  )
  closing.add(audit.close)
  const access = createAccessLog(
    { level: config.log.level, prompts: config.log.prompts },
    { clock, sink: output.write },
  )
  closing.add(access.flush)
  const tracing = createTracing({ clock, random, version })
  const history = createHistory({ clock, credits: () => recorder.totals(), open: () => open.size })
  const pace = createPace({ clock })
  const watchers: Watcher[] = [audit, ...tracing.watchers, history]
  const { traceIdOf } = tracing
  const { openPrompts } = audit
  const recorder = createRecorder({ metrics, access, log, clock, matches, watchers, open, traceIdOf, openPrompts })
  recorder.watch(audit)
  recorder.watch(tracing)
  recorder.watch(history)
  recorder.watch(pace)

  return {
    log,
    metrics,
    access,
    audit,
    auditFile,
    tracing,
    history,
    pace,
    recorder,
    open,
    emit: recorder.emit,
    /** From now on it is told of every exchange. */
    watch: (watcher: Watcher) => void watchers.push(watcher),
  }
}
