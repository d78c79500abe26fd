/** W3C Trace Context, level 2: reading and continuing a `traceparent` that was found to be well-formed when it came in. */

export function traceIdOf({ traceparent }: { readonly traceparent: string | null }): string | null {
  return traceparent === null ? null : traceparent.slice(3, 35)
}

/** The same trace with a parent of our own. Written as version 00, whatever came in; of its flags, those that version knows. */
export function continueTrace(traceparent: string, spanId: string): string {
  // sampled, and random-trace-id
  const flags = Number.parseInt(traceparent.slice(53, 55), 16) & 0b11
  return `00-${traceparent.slice(3, 35)}-${spanId}-0${flags}`
}
