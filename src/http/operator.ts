/** Who acts on the admin port, by the header Authorization, and where on the page what was done can be seen. */
import type { OperatorAction } from '../telemetry/events.ts'

interface Credentials {
  /** A bearer token, or the same as the password of any user; null = neither. */
  readonly token: string | null
  /** The user name beside the password, which nobody has checked; null = none, or none that can be shown. */
  readonly user: string | null
}

const none: Credentials = { token: null, user: null }

export function credentialsIn(authorization = ''): Credentials {
  const bearer = /^bearer +(\S+)$/i.exec(authorization)?.[1]
  if (bearer !== undefined) return { ...none, token: bearer }
  const basic = /^basic +([\w+/]+=*)$/i.exec(authorization)?.[1]
  if (basic === undefined) return none
  const pair = Buffer.from(basic, 'base64').toString()
  const end = pair.indexOf(':')
  if (end === -1) return none
  const user = pair.slice(0, end)
  return { token: pair.slice(end + 1), user: /^[\x21-\x7e]{1,64}$/.test(user) ? user : null }
}

export const placesOnPage: Readonly<Record<OperatorAction, string>> = {
  'key-try': 'standing',
  'circuit-close': 'standing',
  purge: 'cache',
  reload: 'health',
  credits: 'credits',
}
