// Preloaded where a program has no setting for it: nothing here is to listen on other addresses.
import { Server } from 'node:net'

const { listen } = Server.prototype
Server.prototype.listen = function (port, ...rest) {
  const callback = rest.find((one) => typeof one === 'function')
  return listen.call(this, Number(port.port ?? port), '127.0.0.1', 16_384, callback)
}
