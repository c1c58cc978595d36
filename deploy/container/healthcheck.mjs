// Exit code 0 if the server in this container is alive; its certificate, if it has one, is not looked at.
import { request as overHttp } from 'node:http';
import { request as overTls } from 'node:https';

const { BONSAI_PORT: port = '8000', BONSAI_TLS_CERT: certificate } = process.env;
const request = certificate === undefined ? overHttp : overTls;
const options = {
  host: '127.0.0.1',
  port,
  path: '/v2/health/live',
  rejectUnauthorized: false,
  timeout: 4000,
};
request(options, ({ statusCode }) => process.exit(statusCode === 200 ? 0 : 1))
  .on('timeout', () => process.exit(1))
  .on('error', () => process.exit(1))
  .end();
