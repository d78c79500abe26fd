/** An attempt as one plain call: signed, forwarded, judged. Never rejects, because none of the three does. */
import type { Profile, Upstream } from '../parts.ts'
import type { Transport } from '../ports.ts'

interface PlainPorts {
  readonly profile: Pick<Profile, 'sign' | 'classify'>
  readonly transport: Pick<Transport, 'forward'>
}

export function createPlainUpstream({ profile, transport }: PlainPorts): Upstream {
  return {
    async ask({ call, turn, key, identity }) {
      const result = await transport.forward(profile.sign(call, turn, key, identity))
      const status = result.kind === 'reply' ? result.reply.status : null
      return { verdict: profile.classify(call, result, key), status }
    },
  }
}
