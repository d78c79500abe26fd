/** `notify`: webhooks. */
import * as z from 'zod'
import { isLoopback } from '../../addresses.ts'
import { list, live, map, fieldMetadata, secret } from '../field.ts'

const notifiedEvents = ['budget', 'key', 'circuit', 'store', 'reload'] as const

/** May hold a password or a secret path, which is not printed. */
function webhook() {
  const error = 'expected an https URL, or an http URL of this machine such as http://127.0.0.1:9000/hook'
  const schema = z.string({ error }).refine(isWebhook, { error })
  return schema.register(fieldMetadata, { kind: 'webhook' })
}

function isWebhook(written: string): boolean {
  const url = URL.parse(written)
  return url !== null && (url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url.hostname)))
}

export const notify = z.array(
  map({
    url: live(webhook(), 'URL that receives a POST for each event: https, or http on this machine.'),
    secret: live(
      secret(16).optional(),
      'Key for `X-Proxy-Signature: sha256=…`, the HMAC-SHA256 of the body in hexadecimal. Default: no signature.',
    ),
    on: live(
      list(z.enum(notifiedEvents, { error: 'expected budget, key, circuit, store or reload, found {found}' })).prefault(
        [...notifiedEvents],
      ),
      'Events to send.',
    ),
  }),
  { error: 'expected a list, found {found}' },
)
