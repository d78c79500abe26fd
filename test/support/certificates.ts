/** A certificate authority of the tests, by the openssl command: Node makes keys, but no certificates. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

export interface Issued {
  /** Paths of PEM files. */
  readonly cert: string
  readonly key: string
}

export interface Authority {
  /** Its own certificate. */
  readonly ca: string
  readonly pem: string
  /** A certificate for these names, such as `DNS:localhost` or `IP:127.0.0.1`; `days` below 0 = it has expired. */
  issue(name: string, subjects?: readonly string[], days?: number): Issued
}

const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

export function anAuthority(t: Test, name = 'ca'): Authority {
  const folder = mkdtempSync(join(tmpdir(), 'certificates-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const at = (file: string): string => join(folder, file)
  const openssl = (...args: readonly string[]): void =>
    void execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] })
  const ca = { cert: at(`${name}.pem`), key: at(`${name}-key.pem`) }
  openssl('req', '-x509', ...curve, '-keyout', ca.key, '-out', ca.cert, '-days', '30', '-subj', `/CN=${name}`)

  return {
    ca: ca.cert,
    pem: readFileSync(ca.cert, 'utf8'),
    issue(name, subjects = ['DNS:localhost', 'IP:127.0.0.1'], days = 30) {
      const issued = { cert: at(`${name}.pem`), key: at(`${name}-key.pem`) }
      const request = at(`${name}.csr`)
      const extensions = at(`${name}.ext`)
      writeFileSync(extensions, `subjectAltName=${subjects.join(',')}\n`)
      openssl('req', '-new', ...curve, '-keyout', issued.key, '-out', request, '-subj', `/CN=${name}`)
      const signing = ['-in', request, '-CA', ca.cert, '-CAkey', ca.key, '-CAcreateserial', '-extfile', extensions]
      openssl('x509', '-req', ...signing, '-days', String(days), '-out', issued.cert)
      return issued
    },
  }
}
