/** `token NAME`: a new client token, shown once, and the lines for the settings, which hold only its SHA-256. */
import { hash } from 'node:crypto'
import { wrongClientName } from '../config/field.ts'
import type { Io } from './io.ts'

/** Resolves to the exit code. */
export async function runToken(
  { name }: { readonly name: string },
  io: Pick<Io, 'stdout' | 'stderr' | 'randomBytes'>,
): Promise<number> {
  const complaint = wrongClientName(name)
  if (complaint !== null) {
    io.stderr(`${complaint}\n`)
    return 1
  }
  // 24 bytes are exactly 32 characters of base64url.
  const token = `slp_${Buffer.from(io.randomBytes(24)).toString('base64url')}`
  io.stdout(
    [
      `token for ${name}, shown only now:`,
      '',
      `  ${token}`,
      '',
      'and for the settings, which need only its SHA-256:',
      '',
      'clients:',
      `  ${name}:`,
      `    tokenSha256: "${hash('sha256', token)}"`,
      '',
    ].join('\n'),
  )
  return 0
}
