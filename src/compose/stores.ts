/** Builds what is kept: in memory, in the data folder, or in the store that all replicas share. */
import { createCodec } from '../cache/codec.ts'
import { createLocalTier } from '../cache/local-tier.ts'
import { createSharedTier } from '../cache/shared-tier.ts'
import { createSigningKeys } from '../cache/signing-keys.ts'
import { cacheBytesOf } from '../config/policy.ts'
import type { Config } from '../config/schema.ts'
import { createTokenUses } from '../http/token-uses.ts'
import { createSharedRecords } from '../jobs/shared-records.ts'
import { createSharedJobStore } from '../jobs/shared-store.ts'
import { createLocalJobStore, createMemoryStore } from '../jobs/store.ts'
import { createTraffic } from '../limits/day-sums.ts'
import { createSharedDaySums } from '../limits/shared-day-sums.ts'
import type { World } from '../ports.ts'
import { createSession, soloSession } from '../session.ts'
import { diskOptions, sharedOptions, signingSecretsOf } from '../options.ts'
import type { Closing } from './closing.ts'
import type { Telemetry } from './telemetry.ts'

export interface StoresBase {
  readonly config: Config
  readonly world: World
  readonly telemetry: Telemetry
  readonly closing: Closing
}

export type Stores = ReturnType<typeof buildStores>

/** A longer answer is kept by each replica for itself. */
const MAX_SHARED_BYTES = 4 * 1_048_576

export function buildStores({ config, world, telemetry, closing }: StoresBase) {
  const { clock, random } = world
  const { emit } = telemetry
  const store = config.redis ? world.openShared(sharedOptions(config.redis), emit) : null
  if (store) closing.add(store.close)
  const session = store ? createSession({ store, clock, id: random.id() }) : soloSession(random.id(), clock)
  closing.add(session.close)
  const disk = config.cache.disk && !store ? world.openDisk(diskOptions(config.cache.disk), emit) : null
  if (disk) {
    closing.add(disk.close)
    telemetry.history.keepIn(disk)
  }

  const gauge = world.gaugePressure()
  const local = createLocalTier({
    maxBytes: cacheBytesOf(config, gauge.limitBytes),
    onEvicted: () => emit({ kind: 'cache-evicted', tier: 'memory' }),
  })
  const signingKeys = createSigningKeys(clock)
  signingKeys.adopt(signingSecretsOf(config))
  const codec = createCodec({ signingKeys: signingKeys.all, maxBytes: MAX_SHARED_BYTES })
  const shared = store ? createSharedTier({ codec, store, memory: local, clock, random, emit }) : null
  if (shared) {
    closing.add(async () => {
      await shared.settled()
      shared.close()
    })
  }

  // Where there is no disk, what is counted is forgotten with the process.
  const records = disk ?? createMemoryStore(clock)
  const jobStore = store ? createSharedJobStore(createSharedRecords(store, clock), clock) : null
  const jobRecords = jobStore ?? createLocalJobStore(disk ?? createMemoryStore(clock))
  if (jobStore) closing.add(jobStore.close)
  const daySums = store ? createSharedDaySums({ store, clock, session }) : null
  if (daySums) closing.add(daySums.close)
  const traffic = createTraffic(daySums ?? records, clock)
  closing.add(traffic.close)
  return {
    store,
    session,
    disk,
    gauge,
    local,
    signingKeys,
    shared,
    records,
    jobStore,
    jobRecords,
    daySums,
    traffic,
    tokenUses: createTokenUses(records, clock),
  }
}
