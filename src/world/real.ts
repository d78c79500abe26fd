/** The world as it is: real time, real chance, standard output, the network, the disk. */
import type { World } from '../ports.ts'
import { createAuditFile } from './audit-file.ts'
import { createClock } from './clock.ts'
import { createDisk } from './disk.ts'
import { watchFile } from './file-watch.ts'
import { postWebhook } from './http-client.ts'
import { createStdout } from './output.ts'
import { createPressureGauge } from './pressure.ts'
import { createRandom } from './random.ts'
import { createRedis } from './redis.ts'
import { createTransport } from './transport.ts'

export function realWorld(): World {
  const clock = createClock()
  const random = createRandom()
  return {
    clock,
    random,
    output: createStdout(),
    environment: process.env,
    connect: (options) => createTransport(options, clock),
    openDisk: (options, emit) => createDisk(options, clock, emit),
    openAuditFile: (options, emit) => createAuditFile(options, clock, emit),
    openShared: (options, emit) => createRedis(options, clock, random, emit),
    gaugePressure: createPressureGauge,
    post: postWebhook,
    watchFile: (path, onChange) => watchFile(path, clock, onChange),
  }
}
