/** `schema`: the JSON Schema of the settings, for editors and other tools. */
import { jsonSchema } from '../config/describe.ts'
import type { Io } from './io.ts'

/** Resolves to the exit code. */
export async function runSchema(_options: object, io: Pick<Io, 'stdout'>): Promise<number> {
  io.stdout(schemaText())
  return 0
}

/** As it lies in config/schema.json. */
export function schemaText(): string {
  return `${JSON.stringify(jsonSchema(), null, 2)}\n`
}
