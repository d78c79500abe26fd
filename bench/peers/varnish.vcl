vcl 4.1;

import std;

backend answers {
  .host = "127.0.0.1";
  .port = "__UPSTREAM__";
  .first_byte_timeout = 330s;
  .between_bytes_timeout = 330s;
}

sub vcl_recv {
  set req.url = std.querysort(req.url);
}

sub vcl_backend_fetch {
  set bereq.http.X-API-Key = "bench-key";
}

sub vcl_backend_response {
  set beresp.ttl = __TTL__s;
  set beresp.grace = 24h;
  if (beresp.status >= 500) {
    # What is kept and expired is better than this.
    if (bereq.is_bgfetch) {
      return (abandon);
    }
    set beresp.uncacheable = true;
  }
}
