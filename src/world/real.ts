/** The world as it is: real time, real chance, standard output, the network. */
import type { World } from '../ports.ts'
import { createClock } from './clock.ts'
import { createStdout } from './output.ts'
import { createRandom } from './random.ts'
import { createTransport } from './transport.ts'

export function realWorld(): World {
  const clock = createClock()
  return {
    clock,
    random: createRandom(),
    output: createStdout(),
    connect: (options) => createTransport(options, clock),
  }
}
