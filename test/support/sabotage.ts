/**
 * Loaded into the real program by a test: at each SIGUSR2 something fails where nobody catches it, and says all that must not be
 * told: the upstream key, and the prompt that is being asked. By turns it throws, and leaves a promise to itself.
 */
let times = 0

process.on('SIGUSR2', () => {
  times += 1
  const error = new Error(`sabotage: ${process.env['SCRAPELLM_API_KEY'] ?? ''} asked canary-prompt-0123456789`)
  if (times % 2 === 1) throw error
  void Promise.reject(error)
})
