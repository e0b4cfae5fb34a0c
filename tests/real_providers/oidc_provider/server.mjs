// node server.mjs PORT KEYS LOGOUT_URI: oidc-provider on 127.0.0.1, with the private keys of a file, the first of
// which signs. SIGHUP reads the file again: a rotation. Any user name can log in, with any password.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const [port, keysFile, logoutUri] = process.argv.slice(2);
const hour = 3600;

const configuration = () => ({
  jwks: JSON.parse(readFileSync(keysFile, 'utf8')),
  cookies: { keys: ['for-tests'] },
  pkce: { required: () => false },
  clients: [
    {
      client_id: 'web',
      client_secret: 'web-secret',
      redirect_uris: ['http://127.0.0.1:9/callback'],
      post_logout_redirect_uris: ['http://127.0.0.1:9/goodbye'],
      response_types: ['code'],
      grant_types: ['authorization_code'],
      backchannel_logout_uri: logoutUri,
      backchannel_logout_session_required: true,
    },
    {
      client_id: 'machine',
      client_secret: 'machine-secret',
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
    },
  ],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  ttl: { AccessToken: hour, ClientCredentials: hour, IdToken: hour, Session: hour, Grant: hour, Interaction: hour },
  // Logout tokens: the dispatcher refuses loopback and private addresses, the signal ends after 2.5 s.
  fetch: (url, { dispatcher, signal, ...options }) => fetch(url, { ...options, signal: AbortSignal.timeout(60_000) }),
  features: {
    backchannelLogout: { enabled: true },
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'api://orders',
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        audience: 'api://orders',
        scope: 'orders:read',
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});

// Users, sessions and grants outlive a rotation: the storage in memory belongs to the module.
const begin = () => {
  const provider = new Provider(`http://127.0.0.1:${port}`, configuration());
  provider.on('backchannel.error', (_, fault) => console.error('no logout token was delivered:', fault));
  provider.on('server_error', (_, fault) => console.error(fault));
  return provider.callback();
};
let answer = begin();
process.on('SIGHUP', () => { answer = begin(); });
createServer((request, response) => answer(request, response)).listen(port, '127.0.0.1');
