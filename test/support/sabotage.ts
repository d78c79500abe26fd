/**
 * Loaded into the real program by a test: on SIGUSR2 something throws where nobody catches it, and says all that must not be
 * told: the upstream key, and the prompt that is being asked.
 */
process.on('SIGUSR2', () => {
  throw new Error(`sabotage: ${process.env['SCRAPELLM_API_KEY'] ?? ''} asked canary-prompt-0123456789`)
})
