/** `listen.tls` and `admin.tls`. */
import { map, restart, text } from '../field.ts'

/** PEM; looked at again every few seconds. */
export function tls() {
  const files = map({
    cert: restart(
      text('the path of a file'),
      'Path of the PEM file with the certificate followed by its chain; reloaded when it changes.',
    ),
    key: restart(
      text('the path of a file'),
      'Path of the PEM file with the private key, without a passphrase; reloaded when it changes.',
    ),
  })
  return restart(files.optional(), 'Serves HTTPS instead of HTTP, with TLS 1.2 or later.')
}
