/** An attempt as one plain call: signed, forwarded, judged. Never rejects, because none of the three does. */
import type { Upstream } from '../fetch-parts.ts'
import type { Profile } from '../parts.ts'
import type { Emit, Transport } from '../ports.ts'

interface PlainPorts {
  readonly profile: Pick<Profile, 'sign' | 'classify'>
  readonly transport: Pick<Transport, 'forward'>
  readonly emit: Emit
}

export function createPlainUpstream({ profile, transport, emit }: PlainPorts): Upstream {
  return {
    async ask({ call, turn, key, identity }) {
      const result = await transport.forward(profile.sign(call, turn, key, identity))
      const verdict = profile.classify(call, result, key)
      const trouble = result.kind === 'broken' ? { reason: result.reason, code: result.code } : null
      emit({ kind: 'wire-ended', scraper: call.scraper, trouble })
      return { verdict, status: result.kind === 'reply' ? result.reply.status : null, trouble }
    },
  }
}
